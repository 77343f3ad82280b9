/* The other implementations that are here: loaded, not linked. One thread. */
#ifndef HPL_BENCH_PEERS_H
#define HPL_BENCH_PEERS_H

#include "bench/peers/peer.h"

#define HPL_BENCH_MAX_PEERS 12

/* Those that the build put beside the program (peer-*.so), then those that HPL_BENCH_PEERS names (paths of shared objects, separated by colons). One that
 * cannot be loaded, or does not seal and open a message rightly, is told on standard error and left out. Returns how many. They stay loaded. */
size_t hpl_bench_load_peers(const struct hpl_peer *peers[HPL_BENCH_MAX_PEERS]);

#endif
