//! Attention against its definition in f64, and the bit-for-bit promises.

mod bad_input;
mod case;
mod exact;
mod holes;
mod oracle;
mod paged;
mod rope;
