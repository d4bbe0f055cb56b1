package config

import "time"

// Config is the whole configuration. The comment of each field is what the manual says about
// its key ("myelin config describe").
//
// The tag "toml" holds the key's name. The tag "is" holds words of this list: secret (the value
// is shown nowhere), reload (a change takes effect on SIGHUP; all others need a restart).
type Config struct {
	// The name that follows the colon in the IDs of this server's users and rooms: a DNS name,
	// such as example.org. It cannot be changed once there are users. It need not be the name of
	// the machine that runs the server.
	ServerName string `toml:"server_name"`

	// The folder for everything the server keeps: the embedded database, its keys, the socket
	// for commands. It is made where it does not exist. One process uses it at a time.
	DataDir string `toml:"data_dir"`

	// The database. Empty means SQLite, embedded, in data_dir. A postgres:// URL means PostgreSQL,
	// which the server fills with tables of its own.
	Database string `toml:"database" is:"secret"`

	// Who may make an account: "open" lets anybody, "token" whoever has a registration token
	// (myelin token create), "closed" nobody. Accounts can always be made with
	// "myelin user create".
	Registration string `toml:"registration"`

	// A secret that lets other programs make accounts through /_synapse/admin/v1/register, whatever
	// registration says. Empty turns that off.
	RegistrationSharedSecret string `toml:"registration_shared_secret" is:"secret"`

	// Whether guests, who need no password and may do little, can make accounts.
	AllowGuests bool `toml:"allow_guests"`

	// Whether users and addresses that send requests too fast are told to wait: "on" or "off".
	// Off is for tests.
	RateLimits string `toml:"rate_limits"`

	// Whether users who share a room see of each other who is online: "on" or "off".
	Presence string `toml:"presence"`

	// Whom users find when they look for others: "visible" finds those who share a room with them or are
	// in a room that anybody may join, "all" finds every user of this server as well.
	UserDirectory string `toml:"user_directory"`

	// Addresses or networks (10.0.0.0/8) of the reverse proxies in front of the server. Only
	// their X-Forwarded-For header is believed. Without this all users behind a proxy
	// share one address, and its rate limit.
	TrustedProxies []string `toml:"trusted_proxies"`

	// Whether rooms that users leave, or are put out of, are forgotten at once: they can't read them any more
	// then, on no device. With false they decide themselves, room by room.
	ForgetLeftRooms bool `toml:"forget_left_rooms"`

	// The version of rooms whose creator asks for none.
	DefaultRoomVersion string `toml:"default_room_version"`

	// The paths of registration files of application services (bridges and bots), and of folders whose files
	// *.yaml and *.yml are registrations. Others can be added while the server runs, with
	// "myelin appservice add".
	Appservices []string `toml:"appservices"`

	// What clients connect to.
	Client Client `toml:"client"`
	// Talking to other servers.
	Federation Federation `toml:"federation"`
	// Signing in.
	Session Session `toml:"session"`
	// Mail from the server to its users: confirmations of addresses.
	Mail Mail `toml:"mail"`
	// What new users must accept.
	Terms Terms `toml:"terms"`
	// A service that tells humans from robots, which new users must pass.
	Captcha Captcha `toml:"captcha"`
	// Relays for voice and video calls between two users.
	Turn Turn `toml:"turn"`
	// Calls of several users, which need a server for their media.
	Rtc RTC `toml:"rtc"`
	// Files that users send, and copies of those of other servers.
	Media Media `toml:"media"`
	// A store that speaks the protocol of S3 (Amazon's, MinIO, Garage, Ceph, ...) as the place of files, instead of a folder.
	S3 S3 `toml:"s3"`
	// Notifications of users' devices.
	Push Push `toml:"push"`
	// Identity servers, which clients name to find people by their addresses.
	Identity Identity `toml:"identity"`
	// What the operator tells users in the name of the server.
	Notices Notices `toml:"notices"`
	// Whom people may turn to, published at /.well-known/matrix/support.
	Support Support `toml:"support"`
	// The log, which goes to standard error.
	Log Log `toml:"log"`
	// Measurements for operators.
	Metrics Metrics `toml:"metrics"`
}

// Client is about the listener for clients.
type Client struct {
	// The address and port where clients are served, by plain HTTP. Port 0 takes any free one. Put
	// a reverse proxy with TLS in front to serve other machines.
	Listen string `toml:"listen"`

	// The URL under which clients reach this server, such as https://matrix.example.org. It is
	// published at /.well-known/matrix/client. Empty means http:// and client.listen.
	BaseURL string `toml:"base_url"`
}

// Federation is about other servers.
type Federation struct {
	// Whether this server talks to others. With false its users talk to each other only: nothing is
	// asked of other servers, and they are not answered.
	Enabled bool `toml:"enabled"`

	// The address and port where other servers are served, such as :8448, which is where they look
	// unless they are told otherwise. With federation.tls_cert that is by HTTPS; without, by plain HTTP, for a
	// reverse proxy with TLS in front. Empty means that client.listen serves other servers too.
	Listen string `toml:"listen"`

	// The path of a file with the certificate for federation.listen, in PEM, followed by those of its issuers.
	// It must be good for server_name, or for the name that the delegation of server_name names. The
	// file is read again when it changes, so a renewal needs nothing more.
	TLSCert string `toml:"tls_cert"`

	// The path of a file with the private key of that certificate, in PEM.
	TLSKey string `toml:"tls_key"`

	// The path of a file with certificates, in PEM, that are believed as issuers of other servers' certificates,
	// besides those that this machine believes already. For closed networks with an authority of their own.
	CAFile string `toml:"ca_file"`

	// Addresses or networks (10.0.0.0/8) of private, local or reserved ranges in which other servers may be
	// contacted. None of these ranges is contacted otherwise, whatever names lead there.
	AllowNetworks []string `toml:"allow_networks"`

	// The servers that this one talks to, by name; * stands for any letters and ? for one, as in
	// "*.example.org". Empty means all.
	Allow []string `toml:"allow"`

	// The servers that this one does not talk to, in the same form. What stands here is refused whatever
	// federation.allow says.
	Deny []string `toml:"deny"`

	// Servers whose word is taken for the signing keys of servers that do not answer. Needed to read rooms whose
	// servers are gone. Choose those whose operators you trust; none is asked unless it stands here.
	Notaries []string `toml:"notaries"`
}

// Session is about access tokens.
type Session struct {
	// How long an access token lives whose client cannot refresh it, such as "30d". Then its user must
	// sign in again. "0" means for ever.
	AccessTokenLifetime Duration `toml:"access_token_lifetime"`
	// How long an access token lives whose client can refresh it, which goes unnoticed by its
	// user. A stolen token is of use for that long only.
	RefreshableLifetime Duration `toml:"refreshable_lifetime"`
}

// Mail is about sending mail.
type Mail struct {
	// The address and port of the SMTP server that takes this server's mail, such as "smtp.example.org:587". Empty means that no mail
	// is sent: then users can't confirm e-mail addresses, nor get a new password by mail.
	Server string `toml:"server"`

	// How the connection is encrypted: "starttls" (usual on port 587), "tls" from the first byte (port 465), or "none", for a server on
	// this machine.
	TLS string `toml:"tls"`

	// The name under which to sign in at the SMTP server. Empty where it wants none.
	Username string `toml:"username"`

	// The password for that name.
	Password string `toml:"password" is:"secret"`

	// The address that mail comes from, such as "Example <matrix@example.org>".
	From string `toml:"from"`

	// Whether new users must confirm an e-mail address. Otherwise they may.
	Required bool `toml:"required"`
}

// Terms is about documents.
type Terms struct {
	// The documents, each as its name in the protocol, its version, the language of the text, its URL and its title, with spaces
	// between: "privacy_policy 1.2 en https://example.org/privacy Privacy policy". Translations of a document share name and version.
	Documents []string `toml:"documents"`
}

// Captcha is about a service that speaks the protocol of reCAPTCHA.
type Captcha struct {
	// The public key of this site. Empty means that nobody is asked.
	SiteKey string `toml:"site_key"`

	// The secret key of this site.
	Secret string `toml:"secret" is:"secret"`

	// The URL where answers are verified.
	VerifyURL string `toml:"verify_url"`

	// The URL of the script that shows the puzzle, for clients that leave it to a page of this server.
	ScriptURL string `toml:"script_url"`
}

// Turn is about TURN servers.
type Turn struct {
	// The addresses of TURN servers that clients may use, such as "turn:turn.example.org:3478?transport=udp". Empty means
	// that there are none: then calls work only between clients that can reach each other.
	URIs []string `toml:"uris"`

	// The secret that the TURN servers share with this one (static-auth-secret in coturn). Each user gets a name and a
	// password of their own, which expire.
	SharedSecret string `toml:"shared_secret" is:"secret"`

	// How long a user's name and password are good, with turn.shared_secret.
	Lifetime Duration `toml:"lifetime"`

	// The name of the one account that all users share, for TURN servers without a shared secret.
	Username string `toml:"username"`

	// The password of that account.
	Password string `toml:"password" is:"secret"`

	// Whether guests get it, too.
	Guests bool `toml:"guests"`
}

// RTC is about calls of several users.
type RTC struct {
	// The URLs of services that let users into calls on a LiveKit server, such as https://rtc.example.org/livekit/jwt. Clients are told
	// of them in this order. Empty means that there are none.
	LiveKit []string `toml:"livekit"`
}

// Media is about files.
type Media struct {
	// The folder for files. Empty means the folder media in data_dir. Several nodes on one database need one
	// that they share, or a bucket that they share (s3.endpoint): then each has a folder of its own for uploads under way.
	Folder string `toml:"folder"`

	// The largest file that a user may upload, such as "50MiB".
	MaxUpload Size `toml:"max_upload"`

	// The largest file that is fetched from another server for users of this one.
	MaxRemote Size `toml:"max_remote"`

	// How much space copies of other servers' files may take. Those that nobody asked for the longest are
	// deleted first; they are fetched again when they are needed.
	RemoteCache Size `toml:"remote_cache"`

	// How long a copy is kept that nobody asks for, such as "30d". "0" means as long as there is space.
	RemoteCacheAge Duration `toml:"remote_cache_age"`

	// How much space thumbnails may take. They are made again when they are needed.
	ThumbnailCache Size `toml:"thumbnail_cache"`

	// How much space all files of one user may take, such as "5GiB". Whoever has that much can't upload more. "0" means any amount.
	UserQuota Size `toml:"user_quota"`

	// Whether clients get previews of the links that users post: "on" or "off". This server then asks the pages that
	// links lead to, so that clients need not show themselves to them. Clients do not ask for previews of links in encrypted
	// rooms unless their users want it, since this server learns of the link.
	Previews string `toml:"previews"`

	// Addresses or networks (10.0.0.0/8) of private, local or reserved ranges whose pages may be previewed. No page in
	// these ranges is asked otherwise, whatever names or redirects lead there.
	PreviewNetworks []string `toml:"preview_networks"`

	// How much space previews may take, with their images. The oldest are deleted first, and all that are older than a week.
	PreviewCache Size `toml:"preview_cache"`

	// Whether files can also be had through the old endpoints (/_matrix/media/v3/download), which ask for no
	// access token: anybody who knows a file's address gets it. For clients and servers that know no others. What is
	// stored while this is true can be had that way later, too; what is stored while it is false cannot.
	LegacyUnauthenticated bool `toml:"legacy_unauthenticated"`
}

// S3 is about a store of files on the network.
type S3 struct {
	// The URL of the store, such as https://s3.example.org, without the bucket. Empty means that files are in media.folder. The two
	// use the same names: to move, copy the folders of three letters in media.folder into the bucket behind s3.prefix, or back,
	// while the server is stopped.
	Endpoint string `toml:"endpoint"`

	// The bucket, which must exist. The server needs to list it, and to read, write and delete in it. Versioning would keep what
	// users delete.
	Bucket string `toml:"bucket"`

	// What stands before the names of all files in the bucket, such as "myelin/". Servers with databases of their own may share a
	// bucket if each has another prefix.
	Prefix string `toml:"prefix"`

	// The region of the bucket, as the store calls it.
	Region string `toml:"region"`

	// The name of the key that requests are signed with.
	AccessKey string `toml:"access_key"`

	// The secret of that key.
	SecretKey string `toml:"secret_key" is:"secret"`

	// Where requests name the bucket: "path" (https://s3.example.org/bucket), "dns" (https://bucket.s3.example.org), or
	// "auto", which is dns for Amazon's and path for others.
	Lookup string `toml:"lookup"`
}

// Push is about push gateways, which users' apps name and which this server tells of notifications.
type Push struct {
	// Addresses or networks (10.0.0.0/8) of private, local or reserved ranges in which push gateways may be
	// contacted, such as one of your own. None of these ranges is contacted otherwise, whatever names lead there.
	AllowNetworks []string `toml:"allow_networks"`
}

// Identity is about identity servers. Users choose them, and bring a token of their own.
type Identity struct {
	// The names of the identity servers that users may have this server speak to, such as vector.im. Empty means any.
	Servers []string `toml:"servers"`

	// Addresses or networks (10.0.0.0/8) of private, local or reserved ranges in which identity servers may be
	// contacted. None of these ranges is contacted otherwise, whatever names lead there.
	AllowNetworks []string `toml:"allow_networks"`
}

// Notices is about messages from the server to its users. They are sent with "myelin notice send", or by administrators with
// POST /_synapse/admin/v1/send_server_notice, for tools that are made for it.
type Notices struct {
	// The local part of the user ID that speaks, which nobody can register. After a change, users are told what comes next in new rooms.
	Localpart string `toml:"localpart"`

	// What that user and the rooms are called.
	Name string `toml:"name"`
}

// Support names the people behind the server.
type Support struct {
	// An e-mail address of the administrators.
	Email string `toml:"email"`
	// A Matrix user ID of an administrator, such as @admin:example.org.
	MatrixID string `toml:"matrix_id"`
	// The URL of a page that helps users.
	Page string `toml:"page"`
}

// Log is about the log.
type Log struct {
	// The least severe lines that are written: "debug", "info", "warn" or "error".
	Level string `toml:"level" is:"reload"`
	// How lines are written: "text" for people, "json" for machines.
	Format string `toml:"format"`
	// Whether each request gets a line: "on" or "off". Failures of the server get one always.
	Requests string `toml:"requests"`
}

// Metrics is about the operator's port.
type Metrics struct {
	// The address and port of Prometheus metrics (/metrics) and Go profiles (/debug/pprof/). Anybody
	// who reaches it can read them, so keep it from the world. Empty turns it off.
	Listen string `toml:"listen"`
}

// Default returns the configuration of a server that was told nothing.
func Default() *Config {
	return &Config{
		ServerName:         "localhost",
		DataDir:            "./myelin-data",
		Registration:       "token",
		RateLimits:         "on",
		Presence:           "on",
		UserDirectory:      "visible",
		DefaultRoomVersion: defaultRoomVersion,
		Client:             Client{Listen: "127.0.0.1:8008"},
		Federation:         Federation{Enabled: true},
		Session:            Session{RefreshableLifetime: Duration(time.Hour)},
		Mail:               Mail{TLS: "starttls"},
		Captcha:            Captcha{VerifyURL: "https://www.google.com/recaptcha/api/siteverify", ScriptURL: "https://www.google.com/recaptcha/api.js"},
		Turn:               Turn{Lifetime: Duration(24 * time.Hour)},
		Media: Media{
			MaxUpload: 100 << 20, MaxRemote: 100 << 20, RemoteCache: 10 << 30, RemoteCacheAge: Duration(90 * 24 * time.Hour),
			ThumbnailCache: 2 << 30, Previews: "on", PreviewCache: 1 << 30,
		},
		S3:      S3{Region: "us-east-1", Lookup: "auto"},
		Notices: Notices{Localpart: "server-notices", Name: "Server Notices"},
		Log:     Log{Level: "info", Format: "text", Requests: "on"},
	}
}

// Duration is a time.Duration that is written like "90s", "1h30m" or "7d".
type Duration time.Duration

// Size is a number of bytes that is written like "500KiB", "50MiB" or "10GiB".
type Size int64
