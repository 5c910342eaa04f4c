//! What the gathers read, as the simulated driver counts it.

use half::f16;
use moray::sparse_mlp::IndexList;
use moray::sparse_mlp::cuda::{NeuronList, Selection, Workspace, forward};

use crate::common::Random;
use crate::device::metered;
use crate::raw::call_by_parts;
use crate::run::{Model, call, shape};

/// Every third neuron of 192, d_model 512: the weights' sectors and what else a kernel reads, by kernel.
#[test]
fn gathers_read_the_selected_rows_once_in_whole_sectors() {
    const NAME: &str = "meter::gathers_read_the_selected_rows_once_in_whole_sectors";
    let (d_model, d_ff) = (512, 192);
    let kept: Vec<u32> = (0..d_ff as u32).step_by(3).collect();
    let rows = kept.len() as u64;
    let Some(all) = metered(NAME, |device| {
        let mut random = Random::new(41);
        let mut list = NeuronList::new(device, d_ff).unwrap();
        list.set(device, IndexList::new(&kept, d_ff).unwrap()).unwrap();
        for model in [
            Model::f16(device, &mut random, shape(d_model, d_ff)),
            Model::four_bit(device, &mut random, [1; 3], 32, shape(d_model, d_ff)),
        ] {
            let x = random.weights(d_model, 1.0);
            call(device, &model.device, &x, &Selection::List(&list), None);
            call_by_parts(device, &model, &x, &kept);
        }
    }) else {
        return;
    };
    let sectors = |kernel: &str| {
        let launch = all.iter().find(|launch| launch.kernel() == kernel).expect("the kernel has run");
        assert_eq!(launch.count("shared_bank_conflicts"), 0, "{kernel}");
        launch.count("global_load_sectors")
    };
    let (columns, row16, row4) = (d_model as u64, d_model as u64 * 2 / 32, d_model as u64 / 2 / 32);
    // a block a row; x in f32 once for a block, and again where it is quantized; every warp reads the count and two list entries
    let others = |x_bytes: u64| rows * (x_bytes / 32 + 16 * 3 + 1);
    let check = |kernel: &str, ideal: u64, others: u64| {
        let read = sectors(kernel);
        assert!(read >= ideal, "{kernel} reads {read} sectors, at least {ideal} are its rows");
        let limit = ideal as f64 * 1.05 + others as f64;
        assert!(read as f64 <= limit, "{kernel} reads {read} sectors, its rows are {ideal}, all else {others}");
    };
    check("sparse_mlp_gate_up_f16_1", rows * 2 * row16, others(4 * columns));
    // 16 groups of 32: a sector of f16 scales for each row
    check("sparse_mlp_gate_up_int4_1", rows * 2 * (row4 + 1), others(2 * 4 * columns));
    // the list and its activations once for each of 2 tiles of 256 columns, the count for each warp of 6 splits, whose sums are read
    // by the last of them
    check("sparse_mlp_down_f16_1", rows * row16, 2 * 2 * (rows / 4) + 2 * 6 * 8 + 6 * columns / 8);
    // in one launch down reads the list once before a team waits, and with its activations once for each of 2 tiles of 256 columns (codes: one of
    // 512), the count for each warp of all blocks twice; sums of 6 splits, by the last of them; a block looks whether the others have come
    let whole = all.iter().find(|launch| launch.kernel() == "sparse_mlp_whole_f16_1").expect("the kernel has run");
    let blocks = whole.count("blocks_run");
    let down = 3 * 2 * (rows / 4) + 2 * 16 * blocks + 6 * columns / 8 + 64 * blocks;
    check("sparse_mlp_whole_f16_1", rows * 3 * row16, others(4 * columns) + down);
    // 16 groups of 32: a sector of f16 scales for each row of gate and up; of down each warp's part has scales of all columns, read by halves
    let scales = 6 * 8 * 2 * columns * 2 / 32;
    check("sparse_mlp_whole_int4_1", rows * (3 * row4 + 2), others(2 * 4 * columns) + down + scales);
}

/// Every third neuron of 1536: a warp reads the scales of a block of 32 neurons once, however many of its rows the list has.
#[test]
fn down_reads_the_scales_of_a_block_once_for_each_warps_part() {
    const NAME: &str = "meter::down_reads_the_scales_of_a_block_once_for_each_warps_part";
    let (d_model, d_ff) = (256, 1536);
    let kept: Vec<u32> = (0..d_ff as u32).step_by(3).collect();
    let Some(all) = metered(NAME, |device| {
        let mut random = Random::new(44);
        let model = Model::four_bit(device, &mut random, [1; 3], 32, shape(d_model, d_ff));
        call_by_parts(device, &model, &random.weights(d_model, 1.0), &kept);
    }) else {
        return;
    };
    let launch = all.iter().find(|launch| launch.kernel() == "sparse_mlp_down_int4_1").expect("the kernel has run");
    assert_eq!(launch.count("shared_bank_conflicts"), 0);
    let (rows, blocks) = (kept.len() as u64, d_ff as u64 / 32);
    // 512 rows in parts of 4, of which at most one lies over each edge of two blocks
    let parts = 128;
    let codes = rows * d_model as u64 / 2 / 32;
    let scales = |times: u64| times * d_model as u64 * 2 / 32;
    // four list entries and their activations for each part, a count for each of 48 splits of 8 warps; each split's sums of 256
    // columns and the maxima of at most as many blocks as there are rows
    let others = 2 * parts + 48 * 8 + 48 * (256 + rows) / 8;
    let read = launch.count("global_load_sectors");
    let limit = codes + scales(parts + blocks) + others;
    assert!(
        read >= codes + scales(blocks) && read <= limit,
        "{read} sectors, {codes} of codes, {} of scales",
        scales(blocks)
    );
}

/// Every third neuron of 384, d_model 512, for tokens in one tile and in the whole and part of a larger one: all reads of the
/// kernels with matrix units beside each selected row once, and the activations once for each block.
#[test]
fn tiles_read_the_selected_rows_once_for_up_to_64_tokens() {
    const NAME: &str = "meter::tiles_read_the_selected_rows_once_for_up_to_64_tokens";
    const TOKENS: [usize; 3] = [16, 33, 64];
    let (d_model, d_ff) = (512, 384);
    let kept: Vec<u32> = (0..d_ff as u32).step_by(3).collect();
    let rows = kept.len() as u64;
    let Some(all) = metered(NAME, |device| {
        let mut random = Random::new(43);
        let mut list = NeuronList::new(device, d_ff).unwrap();
        list.set(device, IndexList::new(&kept, d_ff).unwrap()).unwrap();
        for model in [
            Model::f16(device, &mut random, shape(d_model, d_ff)),
            Model::bf16(device, &mut random, shape(d_model, d_ff)),
            Model::four_bit(device, &mut random, [2; 3], 32, shape(d_model, d_ff)),
        ] {
            for tokens in TOKENS {
                let x = random.weights(tokens * d_model, 1.0);
                call(device, &model.device, &x, &Selection::List(&list), None);
            }
        }
    }) else {
        return;
    };
    let mut launches = all.iter().filter(|launch| launch.kernel().contains("tiles"));
    let mut check = |kernel: &str, weights: u64, operand: u64| {
        let launch = launches.next().expect("the kernel has run");
        assert!(launch.kernel().starts_with(kernel), "{} instead of {kernel}", launch.kernel());
        let (read, ideal) = (launch.count("global_load_sectors"), weights + operand);
        let said = format!("{kernel} reads {read} sectors, {weights} of rows and {operand} of activations");
        assert!(read >= ideal && read as f64 <= 1.05 * ideal as f64, "{said}");
        assert_eq!(launch.count("shared_bank_conflicts"), 0, "{kernel}");
    };
    for (name, parts, row_sectors, scales) in [("f16", 2, 32, 0), ("bf16", 3, 32, 0), ("int4", 1, 8, 2)] {
        for tokens in TOKENS {
            let (tile, warps) = if tokens == 16 { (16, 2) } else { (64, 4) };
            let padded = tokens.next_multiple_of(8) as u64;
            // 16 bits: parts of 2 bytes; int8: a byte, and an int32 for each 32
            let operand = |k: u64| padded * k * if name == "int4" { 1 } else { 2 * parts } / 32;
            let sums = if name == "int4" { padded * 4 * (d_model as u64 / 32 + 4) / 32 } else { 0 };
            let blocks = rows.div_ceil(16 * warps);
            let weights = rows * 2 * (row_sectors + scales);
            check(
                &format!("sparse_mlp_gate_up_tiles_{name}_{tile}"),
                weights,
                blocks * (operand(d_model as u64) + sums),
            );
            let columns = if name == "int4" { 2 } else { 1 } * if tokens == 16 { 64 } else { 128 };
            let column_blocks = d_model as u64 / columns;
            // offsets too: two rows of f16 for each of 12 blocks of neurons
            let scales = if name == "int4" { 12 * 2 * d_model as u64 * 2 / 32 } else { 0 };
            check(
                &format!("sparse_mlp_down_tiles_{name}_{tile}"),
                rows * row_sectors + scales,
                column_blocks * operand(rows),
            );
        }
    }
}

#[test]
fn no_neurons_read_no_rows() {
    const NAME: &str = "meter::no_neurons_read_no_rows";
    let Some(all) = metered(NAME, |device| {
        let mut random = Random::new(42);
        let model = Model::f16(device, &mut random, shape(512, 192));
        let list = NeuronList::new(device, 192).unwrap();
        let x = random.weights(512, 1.0);
        call(device, &model.device, &x, &Selection::List(&list), None);
        call_by_parts(device, &model, &x, &[]);
    }) else {
        return;
    };
    for kernel in ["sparse_mlp_gate_up_f16_1", "sparse_mlp_down_f16_1"] {
        let launch = all.iter().find(|launch| launch.kernel() == kernel).expect("the kernel has run");
        // each warp reads the count, and the last blocks of down the sums of six parts
        let (sums, stores) = if kernel.contains("down") { (4 * 512 * 6, 7 * 512 / 8 + 2) } else { (0, 1) };
        assert!(launch.count("global_load_bytes") <= 4 * 32 * 16 * 16 + sums, "{launch:?}");
        assert!((1..=stores).contains(&launch.count("global_store_sectors")), "{launch:?}");
    }
    let launch = all.iter().find(|launch| launch.kernel() == "sparse_mlp_whole_f16_1").expect("the kernel has run");
    // each warp reads the count for gate and up, before it waits and after; the last teams of down read the sums of six parts; a block looks
    // whether the others have come
    let blocks = launch.count("blocks_run");
    let (sums, looks) = (4 * 512 * 6, blocks * 4 * 64);
    assert!(launch.count("global_load_bytes") <= 3 * blocks * 16 * 4 * 32 + sums + looks, "{launch:?}");
    assert!((1..=7 * 512 / 8 + 4).contains(&launch.count("global_store_sectors")), "{launch:?}");
}

/// What a call of few tokens starts, whatever type its inputs have.
#[test]
fn one_token_takes_one_launch_and_several_two_after_they_are_quantized_for_4_bits() {
    const NAME: &str = "meter::one_token_takes_one_launch_and_several_two_after_they_are_quantized_for_4_bits";
    let (d_model, d_ff) = (64, 96);
    let Some(all) = metered(NAME, |device| {
        let mut random = Random::new(45);
        for model in [
            Model::f16(device, &mut random, shape(d_model, d_ff)),
            Model::four_bit(device, &mut random, [1; 3], 32, shape(d_model, d_ff)),
        ] {
            for tokens in [1, 8] {
                let x = device.zeros::<f16>(tokens * d_model).unwrap();
                let mut y = device.zeros::<f16>(tokens * d_model).unwrap();
                let mut workspace = Workspace::new(device, &model.device, tokens).unwrap();
                forward(device, &model.device, &x, tokens, &Selection::All, None, &mut y, &mut workspace).unwrap();
            }
        }
    }) else {
        return;
    };
    let kernels: Vec<&str> = all.iter().map(|launch| launch.kernel().trim_start_matches("sparse_mlp_")).collect();
    let expected = [
        ["whole_f16_1"].as_slice(),
        &["gate_up_f16_8", "down_f16_8"],
        &["whole_int4_1"],
        // 16-bit inputs of several tokens are widened first
        &["keep", "quantize", "gate_up_int4_8", "down_int4_8"],
    ];
    assert_eq!(kernels, expected.concat());
}
