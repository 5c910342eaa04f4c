//! What the kernels do on the shapes of docs/roofline.md, counted by the simulated driver's meter, against the committed counts of
//! results/roofline.
//!
//! `cargo xtask roofline` has these tests write the counts instead (`MORAY_ROOFLINE_WRITE=1`) and makes the table from them.

#[path = "../common/device.rs"]
mod device;

mod attention;
mod counter;
mod decode;
mod dense;
mod input_sparse;
mod products;
mod sampling;
mod sparse_mlp;

use counter::check;

/// Multiprocessors of the machines of the table: xtask/src/roofline/machine.rs.
const MULTIPROCESSORS: [u32; 5] = [82, 108, 128, 132, 170];
/// Their compute capabilities, on which the choice of a kernel depends; what is counted is the code of 8.0.
const CAPABILITIES: [(u32, u32); 5] = [(8, 6), (8, 0), (8, 9), (9, 0), (12, 0)];

#[test]
fn counts_of_products_match_the_committed_ones() {
    check("counts_of_products_match_the_committed_ones", "products", 170, products::count);
}

#[test]
fn counts_of_a_sampled_grid_match_those_of_smaller_whole_ones() {
    const NAME: &str = "counts_of_a_sampled_grid_match_those_of_smaller_whole_ones";
    counter::run(NAME, 170, |counter| {
        let whole = products::count_columns(counter, counter::SAMPLED_COLUMNS);
        for columns in [4, 16] {
            let part = products::count_columns(counter, columns);
            assert!(part.blocks_run() < part.blocks() && whole.blocks_run() == whole.blocks());
            for (name, of_whole) in whole.counts() {
                assert_eq!(part.counts()[&name], of_whole, "{name} of {columns} columns of blocks");
            }
        }
    });
}

#[test]
fn counts_of_attention_match_the_committed_ones() {
    check("counts_of_attention_match_the_committed_ones", "attention", 170, attention::count);
}

#[test]
fn counts_of_16_bit_products_match_the_committed_ones() {
    check("counts_of_16_bit_products_match_the_committed_ones", "dense", 170, dense::count);
}

#[test]
fn counts_of_products_by_input_match_the_committed_ones() {
    check("counts_of_products_by_input_match_the_committed_ones", "input_sparse", 170, input_sparse::count);
}

/// What depends on the device: the parts of the list that a sparse MLP's `down` is cut into, the blocks that quantize a decoded token or
/// share a vocabulary.
macro_rules! by_device {
    ($module:ident: $($test:ident, $index:literal;)*) => {
        $(#[test]
        fn $test() {
            let multiprocessors = MULTIPROCESSORS[$index];
            let file = format!("{}_{multiprocessors}", stringify!($module));
            check(stringify!($test), &file, multiprocessors, $module::count);
        })*
    };
}

by_device! {
    decode:
    counts_of_a_decode_step_on_82_multiprocessors_match_the_committed_ones, 0;
    counts_of_a_decode_step_on_108_multiprocessors_match_the_committed_ones, 1;
    counts_of_a_decode_step_on_128_multiprocessors_match_the_committed_ones, 2;
    counts_of_a_decode_step_on_132_multiprocessors_match_the_committed_ones, 3;
    counts_of_a_decode_step_on_170_multiprocessors_match_the_committed_ones, 4;
}

by_device! {
    sampling:
    counts_of_sampling_on_82_multiprocessors_match_the_committed_ones, 0;
    counts_of_sampling_on_108_multiprocessors_match_the_committed_ones, 1;
    counts_of_sampling_on_128_multiprocessors_match_the_committed_ones, 2;
    counts_of_sampling_on_132_multiprocessors_match_the_committed_ones, 3;
    counts_of_sampling_on_170_multiprocessors_match_the_committed_ones, 4;
}

by_device! {
    sparse_mlp:
    counts_of_the_sparse_mlp_on_82_multiprocessors_match_the_committed_ones, 0;
    counts_of_the_sparse_mlp_on_108_multiprocessors_match_the_committed_ones, 1;
    counts_of_the_sparse_mlp_on_128_multiprocessors_match_the_committed_ones, 2;
    counts_of_the_sparse_mlp_on_132_multiprocessors_match_the_committed_ones, 3;
    counts_of_the_sparse_mlp_on_170_multiprocessors_match_the_committed_ones, 4;
}
