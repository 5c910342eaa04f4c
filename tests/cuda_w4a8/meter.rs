//! What the kernels move, as the simulated driver counts it.

use crate::common::Random;
use crate::device::metered;
use crate::weights::random_weight;
use moray::Device;
use moray::w4a8::PackedWeight;
use moray::w4a8::cuda::{self, Epilogue, Variant};

const SHAPE: (usize, usize) = (256, 1024);

fn multiply(device: &Device, kind: usize, m: usize, variant: Variant) {
    let (n, k) = SHAPE;
    let mut random = Random::new(40);
    let packed = PackedWeight::pack(&random_weight(&mut random, kind, n, k));
    let weight = cuda::Weight::upload(device, &packed).unwrap();
    let mut activations = cuda::Activations::with_capacity(device, m, k).unwrap();
    let x = device.upload(&random.weights(m * k, 1.0)).unwrap();
    activations.quantize(device, &x.as_view(), m, k).unwrap();
    let mut y = device.zeros::<f32>(m * n).unwrap();
    let mut workspace = cuda::Workspace::new(device).unwrap();
    let (mut y, epilogue) = (y.as_view_mut(), Epilogue::default());
    cuda::linear_with(device, variant, &weight, &activations, epilogue, &mut y, &mut workspace).unwrap();
}

/// (kind of weight, M, variant)
const CASES: [(usize, usize, Variant); 10] = [
    (0, 1, Variant::Gemv),
    (4, 4, Variant::Gemv),
    (0, 16, Variant::Gemm { tokens: 16, blocks: 1 }),
    (4, 16, Variant::Gemm { tokens: 16, blocks: 4 }),
    (0, 64, Variant::Gemm { tokens: 64, blocks: 1 }),
    (1, 64, Variant::Gemm { tokens: 64, blocks: 1 }),
    (7, 64, Variant::Gemm { tokens: 64, blocks: 1 }),
    (8, 64, Variant::Gemm { tokens: 128, blocks: 1 }),
    (4, 64, Variant::Gemm { tokens: 64, blocks: 1 }),
    (4, 64, Variant::Gemm { tokens: 128, blocks: 2 }),
];

#[test]
fn weights_are_read_once_up_to_64_tokens() {
    let launches = metered("meter::weights_are_read_once_up_to_64_tokens", |device| {
        CASES.iter().for_each(|&(kind, m, variant)| multiply(device, kind, m, variant));
    });
    let Some(launches) = launches else { return };
    let (n, k) = SHAPE;
    let linears: Vec<_> = launches.iter().filter(|launch| launch.kernel().contains("gem")).collect();
    assert_eq!(linears.len(), CASES.len());
    for (launch, (kind, m, variant)) in linears.iter().zip(CASES) {
        let packed = PackedWeight::pack(&random_weight(&mut Random::new(40), kind, n, k));
        let groups = packed.format().group_size().filter(|_| kind == 4).map_or(0, |group| k / group);
        let weights = packed.bytes();
        // Every block reads all activations and their groups' sums. A GEMV does so by halves and whole sectors of 32 bytes.
        // Each output then takes its part of the sectors of a channel scale, an act_scale and a sum: of 16 by 1 in a GEMV, of
        // 32 by 1 in a GEMM, whose tiles have 64, 128 or 256 features.
        let (activations, outputs) = match variant {
            Variant::Gemv => (n / 16 * m * (2 * k + 32 * groups), m * n * (2 + 1 + 1) * 32 / 16),
            Variant::Gemm { blocks, .. } => (blocks as usize * m * (k + 4 * groups), m * n * (4 + 1 + 1) * 32 / 32),
        };
        assert!(outputs < weights, "a second reading of the weights would be seen");
        let got = launch.count("global_load_sectors") as usize * 32;
        println!("{}: {got} bytes in sectors, {weights} of weights", launch.kernel());
        assert!(
            got >= weights && got <= weights + activations + outputs,
            "{}: expected {weights} bytes of weights, {activations} of activations and {outputs} at the end, got {got}",
            launch.kernel()
        );
    }
}

#[test]
fn kernels_have_no_bank_conflicts() {
    let launches = metered("meter::kernels_have_no_bank_conflicts", |device| {
        CASES.iter().for_each(|&(kind, m, variant)| multiply(device, kind, m, variant));
    });
    let Some(launches) = launches else { return };
    for launch in launches.iter().filter(|launch| launch.kernel().contains("gem")) {
        let (conflicts, passes) = (launch.count("shared_bank_conflicts"), launch.count("shared_passes"));
        assert!(conflicts == 0 && passes > 0, "{}: {conflicts} conflicts in {passes} passes", launch.kernel());
    }
}
