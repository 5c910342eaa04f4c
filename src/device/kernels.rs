//! Kernels as the compiler reports them: where they are compiled from, what they are given, how they are started.

use std::fmt;
use std::marker::PhantomData;

/// What the build made of every source.
pub(crate) mod images {
    use super::Image;

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// A source as the build compiled it.
pub(crate) struct Image {
    /// For every architecture; empty where nothing was built.
    pub(crate) bytes: &'static [u8],
    /// The kernels that the compiler reported, sorted; none where it reported nothing.
    pub(crate) reported: &'static [&'static str],
}

/// A source and its kernels.
pub(crate) struct Module {
    /// As `w4a8/gemm`.
    pub(crate) name: &'static str,
    pub(crate) image: &'static [u8],
    pub(crate) symbols: &'static [&'static str],
}

impl Module {
    /// The sorted `symbols` of a source; others than the compiler reported do not compile.
    pub(crate) const fn new(name: &'static str, image: Image, symbols: &'static [&'static str]) -> Self {
        let Image { bytes, reported } = image;
        assert!(
            reported.is_empty() || are_equal(reported, symbols),
            "a source has other kernels than its mirror.rs; run `cargo xtask mirror`"
        );
        Module { name, image: bytes, symbols }
    }
}

const fn are_equal(a: &[&str], b: &[&str]) -> bool {
    let mut equal = a.len() == b.len();
    let mut i = 0;
    while equal && i < a.len() {
        let (x, y) = (a[i].as_bytes(), b[i].as_bytes());
        equal = x.len() == y.len();
        let mut at = 0;
        while equal && at < x.len() {
            equal = x[at] == y[at];
            at += 1;
        }
        i += 1;
    }
    equal
}

/// Every module of the crate; an operation adds its own.
pub(super) const MODULES: &[&[&Module]] = &[
    #[cfg(feature = "cuda-attention")]
    crate::attention::cuda::MODULES,
    #[cfg(feature = "cuda-input-sparse")]
    crate::input_sparse::cuda::MODULES,
    #[cfg(feature = "cuda")]
    crate::llama::cuda::MODULES,
    #[cfg(feature = "cuda-sparse-mlp")]
    crate::sparse_mlp::cuda::MODULES,
    #[cfg(feature = "cuda-w4a8")]
    crate::w4a8::cuda::MODULES,
];

/// A kernel whose one parameter is a `P`.
pub(crate) struct Kernel<P> {
    /// Module and symbol.
    pub(crate) module: &'static str,
    pub(crate) symbol: &'static str,
    /// Of a block.
    pub(crate) threads: u32,
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
    params: PhantomData<fn(P)>,
}

impl<P> Kernel<P> {
    /// As the compiler reports it; a `P` that is not of the parameter's size does not compile.
    pub(crate) const fn new(
        module: &Module,
        symbol: &'static str,
        threads: u32,
        shared_bytes: u32,
        param_bytes: usize,
    ) -> Self {
        assert!(size_of::<P>() == param_bytes, "the parameter of a kernel has another size than its structure");
        Kernel { module: module.name, symbol, threads, shared_bytes, params: PhantomData }
    }
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P> fmt::Debug for Kernel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol)
    }
}

/// Asserts where the fields of a structure lie: its size, then each field with its offset.
macro_rules! layout {
    ($name:ident, $bytes:literal $(, $field:ident = $offset:literal)*) => {
        const _: () = assert!(size_of::<$name>() == $bytes $(&& std::mem::offset_of!($name, $field) == $offset)*);
    };
}
pub(crate) use layout;

#[cfg(test)]
mod tests {
    use super::{Image, Module, are_equal};

    #[test]
    fn lists_are_equal_if_every_symbol_is() {
        assert!(are_equal(&[], &[]) && are_equal(&["a", "bc"], &["a", "bc"]));
        for other in [&["a"][..], &["a", "bd"], &["a", "b"], &["a", "bc", "d"]] {
            assert!(!are_equal(&["a", "bc"], other), "{other:?}");
        }
    }

    #[test]
    #[should_panic(expected = "run `cargo xtask mirror`")]
    fn module_without_one_of_its_kernels_is_refused() {
        Module::new("w4a8/gemm", Image { bytes: &[], reported: &["gemm", "gemv"] }, &["gemm"]);
    }
}
