//! A peer as a shared object: bench/peers/peer.h. Only `hpl_peer` is exported; the library inside stays hidden.
#[cfg(feature = "ring")]
mod ring_peer;

#[cfg(feature = "aws-lc")]
use aws_lc_sys as _;

#[cfg(any(feature = "openssl35", feature = "aws-lc"))]
mod peer {
    extern "C" {
        fn hpl_peer_c() -> *const core::ffi::c_void;
    }

    #[no_mangle]
    pub extern "C" fn hpl_peer() -> *const core::ffi::c_void {
        unsafe { hpl_peer_c() }
    }
}
