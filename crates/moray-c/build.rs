//! Names the shared library by the version of its ABI, so that a program finds the one it was linked with.

/// As in `src/version.rs`, which a test compares.
const ABI_VERSION: u32 = 1;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    match (target("OS").as_str(), target("FAMILY").as_str()) {
        ("macos" | "ios", _) => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libmoray_c.{ABI_VERSION}.dylib")
        }
        (_, "unix") => println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmoray_c.so.{ABI_VERSION}"),
        _ => {}
    }
}
