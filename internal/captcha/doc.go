// Package captcha asks a service whether whoever registers is human.
//
// It owns the stage of interactive authentication and the request to the service, which speaks the protocol of reCAPTCHA: so do several others.
//
// # Invariants
//
//   - The service is asked for at most verifyTime, its answer is read up to maxAnswer bytes, and the questions under way are bounded.
//   - A service that does not answer lets nobody in.
//
// It refuses to choose a service: its addresses come from the configuration.
//
// # Locks
//
// There are none.
//
// Spec: cs Google ReCaptcha
package captcha
