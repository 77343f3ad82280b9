// Command sio seals and opens DARE 2.0 streams (AES-256-GCM) by minio/sio with a raw key, stdin to stdout:
// the other side of the interoperability check of hardplate's stored format.
//
//	sio seal KEY NONCE        sio open KEY [FIRST]        KEY and NONCE in hex, FIRST the number of the first package
package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"

	"github.com/minio/sio"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sio:", err)
		os.Exit(1)
	}
}

func main() {
	if len(os.Args) < 3 || (os.Args[1] == "seal" && (len(os.Args) < 4 || len(os.Args[3]) != 24)) {
		fail(fmt.Errorf("usage: sio seal KEY NONCE | sio open KEY [FIRST]"))
	}
	key, err := hex.DecodeString(os.Args[2])
	fail(err)
	config := sio.Config{MinVersion: sio.Version20, MaxVersion: sio.Version20, CipherSuites: []byte{sio.AES_256_GCM}, Key: key}
	if os.Args[1] == "seal" {
		nonce, err := hex.DecodeString(os.Args[3])
		fail(err)
		config.Nonce = (*[12]byte)(nonce)
		_, err = sio.Encrypt(os.Stdout, os.Stdin, config)
		fail(err)
		return
	}
	if len(os.Args) > 3 {
		first, err := strconv.ParseUint(os.Args[3], 10, 32)
		fail(err)
		config.SequenceNumber = uint32(first)
	}
	_, err = sio.Decrypt(os.Stdout, os.Stdin, config)
	fail(err)
}
