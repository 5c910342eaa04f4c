//! What the kernels read, as the simulated driver counts it.

use moray::DenseType;
use moray::input_sparse::cuda::{Weight, Workspace, linear};
use moray::input_sparse::{self as host};

use crate::device::metered;

/// Every third input of 960 is kept by one token, every sixth by eight, of which each keeps another eighth of them: the rows of these
/// alone are read, once, in whole sectors.
#[test]
fn kept_rows_are_read_once_in_whole_sectors_for_up_to_8_tokens() {
    const NAME: &str = "meter::kept_rows_are_read_once_in_whole_sectors_for_up_to_8_tokens";
    let (n, k) = (512, 960);
    let Some(all) = metered(NAME, |device| {
        for dtype in [DenseType::F16, DenseType::F32] {
            let weight = host::Weight::from_f32(&vec![0.5; n * k], n, k, dtype).unwrap();
            let weight = Weight::upload(device, &weight).unwrap();
            for (m, every) in [(1, 3), (8, 6)] {
                let keeps = |at: usize| at % k % every == 0 && at % k / every % m == at / k;
                let x: Vec<f32> = (0..m * k).map(|at| if keeps(at) { 1.0 } else { 0.1 }).collect();
                let (x, mut y) = (device.upload(&x).unwrap(), device.zeros::<f32>(m * n).unwrap());
                let mut room = Workspace::with_capacity(device, m, n, k).unwrap();
                linear(device, &weight, &x.as_view(), 0.5, None, None, &mut y.as_view_mut(), &mut room).unwrap();
            }
        }
    }) else {
        return;
    };
    let mut launches = all.iter().filter(|launch| launch.kernel().starts_with("input_sparse"));
    for bytes in [2, 4] {
        for (m, every) in [(1, 3), (8, 6)] {
            let launch = launches.next().expect("the kernel has run");
            let (rows, blocks) = (k / every * n * bytes / 32, n / 32);
            // each block looks at x once
            let ideal = (rows + blocks * m * k * 4 / 32) as u64;
            let read = launch.count("global_load_sectors");
            let said = format!("{}: {read} sectors, {rows} of rows, {ideal} in all", launch.kernel());
            assert!(read >= ideal && read as f64 <= 1.05 * ideal as f64, "{said}");
        }
    }
}
