//! Gives the shared library the name by which programs look for the driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A linker that a program is linked with directly notes this name, and the loader then looks for it.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    }
}
