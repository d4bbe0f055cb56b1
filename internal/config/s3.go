package config

import (
	"net/url"
	"regexp"
	"strings"
)

// bucketName is what stores take as the name of a bucket.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// checkS3 looks at the store of files.
func (c *Config) checkS3(wrong func(key, format string, args ...any)) {
	s := c.S3
	switch s.Lookup {
	case "auto", "path", "dns":
	default:
		wrong("s3.lookup", "%q is none of auto, path, dns", s.Lookup)
	}
	if s.Endpoint == "" {
		for _, k := range []struct{ key, value string }{{"s3.bucket", s.Bucket}, {"s3.prefix", s.Prefix}, {"s3.access_key", s.AccessKey}, {"s3.secret_key", s.SecretKey}} {
			if k.value != "" {
				wrong(k.key, "is of no use without s3.endpoint; write the URL of the store there, such as https://s3.example.org, or leave this empty")
			}
		}
		return
	}
	u, err := url.Parse(s.Endpoint)
	// The URL may hold a password, so it is not repeated.
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		wrong("s3.endpoint", "must be an http or https URL without a path, such as https://s3.example.org; the bucket goes into s3.bucket")
	}
	if !bucketName.MatchString(s.Bucket) || strings.Contains(s.Bucket, "..") {
		wrong("s3.bucket", "%q is not the name of a bucket: 3 to 63 small letters, digits, dots and hyphens", s.Bucket)
	}
	if strings.HasPrefix(s.Prefix, "/") || len(s.Prefix) > 500 {
		wrong("s3.prefix", "%.50q begins with a slash or is too long; write one such as \"myelin/\", or leave it empty", s.Prefix)
	}
	if s.Region == "" {
		wrong("s3.region", "must not be empty; stores without regions take us-east-1")
	}
	if s.AccessKey == "" {
		wrong("s3.access_key", "must not be empty where s3.endpoint is set; write the name of a key of the store")
	}
	if s.SecretKey == "" {
		wrong("s3.secret_key", "must not be empty where s3.endpoint is set; write the secret of s3.access_key, or set MYELIN_S3_SECRET_KEY")
	}
}
