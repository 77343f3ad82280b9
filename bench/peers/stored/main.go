// Command stored times stored formats of others in memory, on one core, when hardplate-bench asks. It first writes a line with its names; then, for every line
// "NAME seal|open BYTES COUNT" read, does that COUNT times and writes the nanoseconds of processor time it took.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"filippo.io/age"
	"github.com/minio/sio"
)

type format struct {
	seal, open func(dst io.Writer, src io.Reader) error
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "stored:", err)
		os.Exit(1)
	}
}

func newSio() format {
	config := sio.Config{MinVersion: sio.Version20, MaxVersion: sio.Version20, CipherSuites: []byte{sio.AES_256_GCM}, Key: []byte("not a secret: for the bench only")}
	seal := func(dst io.Writer, src io.Reader) error { _, err := sio.Encrypt(dst, src, config); return err }
	open := func(dst io.Writer, src io.Reader) error { _, err := sio.Decrypt(dst, src, config); return err }
	return format{seal, open}
}

func newAge() format {
	identity, err := age.GenerateX25519Identity()
	check(err)
	seal := func(dst io.Writer, src io.Reader) error {
		writer, err := age.Encrypt(dst, identity.Recipient())
		if err == nil {
			_, err = io.Copy(writer, src)
			check(writer.Close())
		}
		return err
	}
	open := func(dst io.Writer, src io.Reader) error {
		reader, err := age.Decrypt(src, identity)
		if err == nil {
			_, err = io.Copy(dst, reader)
		}
		return err
	}
	return format{seal, open}
}

// name is that of a module and its version, as the program was built.
func name(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == module {
			return strings.TrimPrefix(strings.TrimPrefix(module, "github.com/"), "filippo.io/") + ":" + strings.TrimPrefix(dep.Version, "v")
		}
	}
	return module
}

// texts keeps what the last question was about, so that nothing of its making is timed.
type texts struct{ plain, sealed, out []byte }

func (t *texts) prepare(f format, size int) {
	if len(t.plain) == size {
		return
	}
	t.plain = bytes.Repeat([]byte{0x5a}, size)
	t.out = bytes.Repeat([]byte{1}, size+size/1024+4096)[:0] // touched: its pages are there
	var sealed bytes.Buffer
	check(f.seal(&sealed, bytes.NewReader(t.plain)))
	t.sealed = sealed.Bytes()
}

// spent is the processor time of this process, collecting garbage too, in nanoseconds: what others do on its core is not counted.
func spent() int64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func (t *texts) time(f format, op string, count int) int64 {
	run, in := f.seal, t.plain
	if op == "open" {
		run, in = f.open, t.sealed
	}
	start := spent()
	for i := 0; i < count; i++ {
		out := bytes.NewBuffer(t.out)
		check(run(out, bytes.NewReader(in)))
		if op == "open" && out.Len() != len(t.plain) {
			check(io.ErrUnexpectedEOF)
		}
	}
	return spent() - start
}

func main() {
	runtime.GOMAXPROCS(1)
	sioName, ageName := name("github.com/minio/sio"), name("filippo.io/age")
	formats, kept := map[string]format{sioName: newSio(), ageName: newAge()}, map[string]*texts{sioName: {}, ageName: {}}
	fmt.Println(ageName, sioName)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var who, op string
		var size, count int
		_, err := fmt.Sscan(lines.Text(), &who, &op, &size, &count)
		check(err)
		kept[who].prepare(formats[who], size)
		fmt.Println(kept[who].time(formats[who], op, count))
	}
}
