//! Peer: ring. It seals and opens in place only, so that the copy of the message into its place is timed with it.
use core::ffi::c_void;
use ring::aead::{Aad, LessSafeKey, Nonce, Tag, UnboundKey, AES_256_GCM};

#[repr(C)]
pub struct Message {
    nonce: *const u8,
    aad: *const u8,
    input: *const u8,
    aad_len: usize,
    len: usize,
    out: *mut u8,
    tag: *mut u8,
}

#[repr(C)]
pub struct Peer {
    version: u32,
    name: *const core::ffi::c_char,
    key_new: extern "C" fn(*const u8) -> *mut c_void,
    key_free: extern "C" fn(*mut c_void),
    seal: extern "C" fn(*mut c_void, *const Message) -> bool,
    open: extern "C" fn(*mut c_void, *const Message) -> bool,
}
unsafe impl Sync for Peer {}

extern "C" fn key_new(bytes: *const u8) -> *mut c_void {
    let bytes = unsafe { core::slice::from_raw_parts(bytes, 32) };
    UnboundKey::new(&AES_256_GCM, bytes).map_or(core::ptr::null_mut(), |key| Box::into_raw(Box::new(LessSafeKey::new(key))) as *mut c_void)
}

extern "C" fn key_free(key: *mut c_void) {
    drop(unsafe { Box::from_raw(key as *mut LessSafeKey) })
}

/// The parts of a message as ring wants them: nonce, AAD, and the text in the place where it will be changed.
unsafe fn parts<'a>(m: &Message) -> (Nonce, Aad<&'a [u8]>, &'a mut [u8]) {
    let nonce = Nonce::assume_unique_for_key(*(m.nonce as *const [u8; 12]));
    core::ptr::copy_nonoverlapping(m.input, m.out, m.len);
    (nonce, Aad::from(core::slice::from_raw_parts(m.aad, m.aad_len)), core::slice::from_raw_parts_mut(m.out, m.len))
}

extern "C" fn seal(key: *mut c_void, message: *const Message) -> bool {
    let (key, m) = unsafe { (&*(key as *const LessSafeKey), &*message) };
    let (nonce, aad, text) = unsafe { parts(m) };
    let sealed = key.seal_in_place_separate_tag(nonce, aad, text);
    sealed.map(|tag| unsafe { core::ptr::copy_nonoverlapping(tag.as_ref().as_ptr(), m.tag, 16) }).is_ok()
}

extern "C" fn open(key: *mut c_void, message: *const Message) -> bool {
    let (key, m) = unsafe { (&*(key as *const LessSafeKey), &*message) };
    let (nonce, aad, text) = unsafe { parts(m) };
    let tag = Tag::from(unsafe { *(m.tag as *const [u8; 16]) });
    key.open_in_place_separate_tag(nonce, aad, tag, text, 0..).is_ok()
}

static PEER: Peer = Peer { version: 1, name: c"ring:0.17.14".as_ptr(), key_new, key_free, seal, open };

#[no_mangle]
pub extern "C" fn hpl_peer() -> *const Peer {
    &PEER
}
