//go:build tools

// Package peers pins KES by version and digest, for scripts/part kes; nothing here is compiled in.
package peers

import _ "github.com/minio/kes/cmd/kes"
