//! The example of the README runs unmodified.

mod common;
#[path = "../examples/graph_replay.rs"]
mod graph_replay;

use common::under_simcuda;

#[test]
fn graph_replay_matches_the_cpu_on_every_capability_and_order() {
    for settings in [
        [("SIMCUDA_ARCH", "8.0"), ("SIMCUDA_ORDER", "lazy")],
        [("SIMCUDA_ARCH", "9.0"), ("SIMCUDA_ORDER", "eager")],
        [("SIMCUDA_ARCH", "8.0"), ("SIMCUDA_ORDER", "seed:11")],
    ] {
        under_simcuda("graph_replay_matches_the_cpu_on_every_capability_and_order", &settings, || {
            graph_replay::main().expect("the example succeeds");
        });
    }
}
