//! Builds the C side of the peer that the feature names, against the library that its crate carries.
#[cfg(feature = "openssl35")]
fn build() {
    let built = openssl_src::Build::new().build();
    compile("openssl.c", built.include_dir().to_str().unwrap());
    built.print_cargo_metadata();
}

#[cfg(feature = "aws-lc")]
fn build() {
    let is_ours = |name: &str| name.starts_with("DEP_AWS_LC_") && name.ends_with("_INCLUDE");
    let (_, include) = std::env::vars().find(|(name, _)| is_ours(name)).expect("aws-lc-sys tells no include folder");
    compile("aws_lc.c", &include);
}

#[cfg(not(any(feature = "openssl35", feature = "aws-lc")))]
fn build() {}

#[cfg(any(feature = "openssl35", feature = "aws-lc"))]
fn compile(file: &str, include: &str) {
    let peers = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let root = peers.parent().unwrap().parent().unwrap();
    println!("cargo:rerun-if-changed={}", peers.display());
    cc::Build::new().file(peers.join(file)).include(root).include(include).opt_level(2).compile("hpl_peer_c");
}

fn main() {
    build();
}
