// Gateway serves HTTP in front of some paid work: LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]; see ../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"holdgate/gateway/hold"
	"holdgate/gateway/internal/arguments"
)

func main() {
	words, files := arguments.Parse()
	if len(words) != 2 {
		log.Fatal("usage: gateway LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]")
	}
	client, err := hold.Dial(words[1], "golden", files)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", words[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("gateway on %s\n", listener.Addr())
	http.Handle("POST /work", paid(client))
	log.Fatal(http.Serve(listener, nil))
}

// paid asks before it works, and settles when it has worked.
func paid(client *hold.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ask := hold.Ask{
			Tenant: r.Header.Get("X-Org"), Action: "job", RequestID: r.Header.Get("X-Request-Id"),
			Amounts: map[string]int64{"credits": number(r, "reserve", 10)},
		}
		held, err := client.Reserve(r.Context(), ask)
		if err != nil {
			hold.WriteError(w, err)
			return
		}
		// The hold ends with the work, even where the caller has gone away meanwhile.
		ended := context.WithoutCancel(r.Context())
		if err := work(r); err != nil {
			_ = held.Release(ended) // what cannot be released ends with its lease
			http.Error(w, `{"error": "the work failed"}`, http.StatusInternalServerError)
			return
		}
		if _, err := held.Settle(ended, map[string]int64{"credits": number(r, "units", 1)}); err != nil {
			log.Printf("hold %s was not settled: %v", held.ID(), err)
		}
		hold.AddHeaders(w, held.Decision)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"hold": held.ID()})
	}
}

func work(r *http.Request) error {
	select {
	case <-r.Context().Done():
		return r.Context().Err()
	case <-time.After(time.Duration(number(r, "ms", 0)) * time.Millisecond):
	}
	if r.URL.Query().Has("fail") {
		return fmt.Errorf("told to fail")
	}
	return nil
}

func number(r *http.Request, name string, otherwise int64) int64 {
	found, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
	if err != nil {
		return otherwise
	}
	return found
}
