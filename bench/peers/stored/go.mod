module hardplate/bench/peers/stored

go 1.19

require (
	filippo.io/age v1.2.1
	github.com/minio/sio v0.4.1
)

require (
	golang.org/x/crypto v0.24.0 // indirect
	golang.org/x/sys v0.21.0 // indirect
)
