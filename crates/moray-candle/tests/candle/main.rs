//! The operations against the plain definitions of moray, over types, strides, shapes and bad input.

mod attention;
mod by_input;
#[path = "../common/mod.rs"]
mod common;
mod linear;
mod sparse_mlp;

use common::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};
