// Package arguments reads what both programs are started with.
package arguments

import (
	"flag"
	"os"

	"holdgate/gateway/hold"
)

// Parse gives the words and the files of TLS; flags may stand anywhere.
func Parse() (words []string, files hold.TLS) {
	flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	flags.StringVar(&files.CA, "ca", "", "PEM file of the server's authorities")
	flags.StringVar(&files.Certificate, "cert", "", "PEM file of the certificate to show")
	flags.StringVar(&files.Key, "key", "", "PEM file of its key")
	for rest := os.Args[1:]; len(rest) > 0; {
		_ = flags.Parse(rest) // it exits by itself
		if rest = flags.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	return words, files
}
