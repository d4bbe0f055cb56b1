package main

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// both is two listeners as one: connections without and with TLS. The server drains and closes it
// like any other.
type both struct {
	plain, secure net.Listener
	accepted      chan accepted
	closed        chan struct{}
	close         sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// listenBoth listens on two addresses and accepts from either.
func listenBoth(network, plain, secure string, settings *tls.Config) (*both, error) {
	p, err := net.Listen(network, plain)
	if err != nil {
		return nil, err
	}
	s, err := tls.Listen(network, secure, settings)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	b := &both{plain: p, secure: s, accepted: make(chan accepted), closed: make(chan struct{})}
	go b.accept(p)
	go b.accept(s)
	return b, nil
}

// accept hands on what one listener accepts, until both close.
func (b *both) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		select {
		case b.accepted <- accepted{conn, err}:
		case <-b.closed:
			if err == nil {
				conn.Close()
			}
			return
		}
	}
}

func (b *both) Accept() (net.Conn, error) {
	select {
	case a := <-b.accepted:
		return a.conn, a.err
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

func (b *both) Close() (err error) {
	b.close.Do(func() {
		close(b.closed)
		err = errors.Join(b.plain.Close(), b.secure.Close())
	})
	return err
}

func (b *both) Addr() net.Addr { return b.plain.Addr() }
