//! What the build script refuses in a compiler's report and when it takes an image from its cache; its tests stand beside the code.
#![allow(dead_code)] // only a part of the script is tested

#[path = "../build/cache.rs"]
mod cache;
#[path = "../build/compile.rs"]
mod compile;
#[path = "../build/nvcc.rs"]
mod nvcc;
