// Proxy is a reverse proxy that asks first: LISTEN HOLDGATE UPSTREAM [--ca FILE [--cert FILE --key FILE]].
// See docs/gateways/go.md.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"

	"holdgate/gateway/hold"
	"holdgate/gateway/internal/arguments"
)

func main() {
	words, files := arguments.Parse()
	if len(words) != 3 {
		log.Fatal("usage: proxy LISTEN HOLDGATE UPSTREAM [--ca FILE [--cert FILE --key FILE]]")
	}
	client, err := hold.Dial(words[1], "llm", files)
	if err != nil {
		log.Fatal(err)
	}
	upstream, err := url.Parse(words[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", words[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("gateway on %s\n", listener.Addr())
	log.Fatal(http.Serve(listener, asking(client, upstream)))
}

// asking reserves tokens before a request goes on, and settles what the upstream says was used.
func asking(client *hold.Client, upstream *url.URL) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask := hold.Ask{Tenant: r.Header.Get("X-Org"), Action: "chat", Amounts: map[string]int64{"tokens": 500}}
		held, err := client.Reserve(r.Context(), ask)
		if err != nil {
			hold.WriteError(w, err)
			return
		}
		var used int64
		proxy := httputil.ReverseProxy{
			Rewrite: func(request *httputil.ProxyRequest) { request.SetURL(upstream) },
			ModifyResponse: func(response *http.Response) error {
				used, _ = strconv.ParseInt(response.Header.Get("X-Tokens-Used"), 10, 64) // none said, none used
				return nil
			},
		}
		// Deferred, since a client who goes away ends the proxy with a panic.
		defer func() {
			ended := context.WithoutCancel(r.Context())
			if used == 0 {
				err = held.Release(ended)
			} else {
				_, err = held.Settle(ended, map[string]int64{"tokens": used})
			}
			if err != nil {
				log.Printf("hold %s ends with its lease: %v", held.ID(), err)
			}
		}()
		proxy.ServeHTTP(w, r)
	})
}
