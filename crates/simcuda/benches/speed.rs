//! Speed of the machine: warp-instructions per second on one core, with checks and meter and without, and the time that the
//! linear layers of one token of a 135M model take.
//!
//! Rates are per second of processor time and of the fastest launch among those that fit into the time of a figure, so that
//! other load on the machine matters less.
//!
//! `cargo bench -p simcuda [name]` runs the cases whose name holds `name`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use simcuda::machine::{Arch, Checks, Function, LaunchConfig, Level, Memory, Module, Options, launch};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(400);

/// Tokens of which the fastest is printed.
const TOKENS: usize = 3;

/// A device with one module loaded.
struct Case {
    memory: Memory,
    function: Arc<Function>,
    config: LaunchConfig,
    params: Vec<u8>,
}

fn load(memory: &Memory, file: &str, entry: &str) -> Arc<Function> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    load_text(memory, &text, entry)
}

fn load_text(memory: &Memory, text: &str, entry: &str) -> Arc<Function> {
    let module = Module::load(memory, text, "bench.ptx").unwrap_or_else(|e| panic!("{e}"));
    module.function(entry).unwrap_or_else(|| panic!("expected an entry `{entry}`"))
}

/// Allocates `bytes` of a fixed pattern that is a small number in every format.
fn filled(memory: &Memory, bytes: usize) -> u64 {
    let p = memory.alloc(bytes).expect("the device is large enough");
    memory.fill(p, &[0x11, 0x22], bytes / 2).expect("inside");
    p
}

fn arguments(pointers: &[u64], numbers: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = pointers.iter().flat_map(|p| p.to_le_bytes()).collect();
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}

fn shape(grid: [u32; 2], threads: u32) -> LaunchConfig {
    LaunchConfig::new([grid[0], grid[1], 1], [threads, 1, 1])
}

fn gemv_f16(memory: &Memory, n: u32, k: u32) -> Case {
    let function = load(memory, "gemv_f16.ptx", "gemv_f16");
    let (w, x, y) =
        (filled(memory, (n * k * 2) as usize), filled(memory, k as usize * 2), filled(memory, n as usize * 4));
    let params = arguments(&[w, x, y], &[n, k]);
    Case { memory: memory.clone(), function, config: shape([n.div_ceil(4), 1], 128), params }
}

fn gemv_w4a8(memory: &Memory, n: u32, k: u32) -> Case {
    let function = load(memory, "gemv_w4a8.ptx", "gemv_w4a8");
    let (w, x, s) = (filled(memory, (n * k / 2) as usize), filled(memory, k as usize), filled(memory, n as usize * 4));
    let (acc, y) = (filled(memory, n as usize * 4), filled(memory, n as usize * 4));
    let mut params = arguments(&[w, x, s], &[0x3c00_0000, 0]);
    params.extend(arguments(&[acc, y], &[n, k]));
    Case { memory: memory.clone(), function, config: shape([n.div_ceil(4), 1], 128), params }
}

fn gemm_w4a8(memory: &Memory, m: u32, n: u32, k: u32) -> Case {
    let function = load(memory, "gemm_w4a8.ptx", "gemm_w4a8");
    let (x, w, acc) =
        (filled(memory, (m * k) as usize), filled(memory, (n * k / 2) as usize), filled(memory, (m * n * 4) as usize));
    let params = arguments(&[x, w, acc], &[m, n, k]);
    let stage_bytes = 64 * 80 + 64 * 8 * 4;
    let config = LaunchConfig { dynamic_shared_bytes: 2 * stage_bytes, ..shape([n / 64, m.div_ceil(64)], 128) };
    Case { memory: memory.clone(), function, config, params }
}

/// A loop of one instruction repeated.
fn repeated(memory: &Memory, instruction: &str) -> Case {
    let body = instruction.repeat(32);
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64
        .visible .entry k(.param .u64 p) {{ .reg .f32 %f<4>; .reg .b32 %r<8>; .reg .pred %p; .shared .align 16 .b8 s[4096];
        mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1;
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f3F000000; mov.u32 %r4, 0;
        L: {body} add.u32 %r4, %r4, 1; setp.lt.u32 %p, %r4, 200; @%p bra L; ret; }}"
    );
    let function = load_text(memory, &text, "k");
    Case { memory: memory.clone(), function, config: shape([8, 1], 128), params: vec![0; 8] }
}

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this function.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Launches until the time is up; returns (warp-instructions a second, seconds) of the fastest launch.
fn measure(case: &Case, options: &Options) -> (f64, f64) {
    let run = || {
        let report = launch(&case.memory, &case.function, &case.config, &case.params, options);
        report.unwrap_or_else(|fault| panic!("{fault}")).instructions
    };
    let (start, mut instructions, mut fastest) = (Instant::now(), run(), f64::INFINITY);
    while start.elapsed() < TIME {
        let before = processor_seconds();
        instructions = run();
        fastest = fastest.min(processor_seconds() - before);
    }
    (instructions as f64 / fastest, fastest)
}

fn options(checks: bool, meter: bool, workers: usize) -> Options {
    let checks = Checks::all(if checks { Level::Fatal } else { Level::Off });
    Options { checks, meter, workers, ..Options::for_arch(Arch::Sm80) }
}

/// Wall-clock seconds of one token's linear layers: (rows, columns, how often) in the shapes of a 135M model with its output layer.
fn token(make: fn(&Memory, u32, u32) -> Case, workers: usize) -> f64 {
    let shapes = [(576, 576, 60), (192, 576, 60), (1536, 576, 60), (576, 1536, 30), (49152, 576, 1)];
    let memory = Memory::new(512 << 20).expect("address space");
    let cases: Vec<(Case, u32)> = shapes.iter().map(|&(n, k, times)| (make(&memory, n, k), times)).collect();
    let options = options(true, true, workers);
    let pass = || {
        let start = Instant::now();
        for (case, times) in &cases {
            for _ in 0..*times {
                launch(&case.memory, &case.function, &case.config, &case.params, &options)
                    .unwrap_or_else(|f| panic!("{f}"));
            }
        }
        start.elapsed().as_secs_f64()
    };
    (0..TOKENS).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let memory = Memory::new(512 << 20).expect("address space");
    let cases: Vec<(&str, Case)> = vec![
        ("fma_loop", repeated(&memory, "fma.rn.f32 %f1, %f1, %f2, %f2;")),
        ("integer_loop", repeated(&memory, "mad.lo.s32 %r5, %r5, %r4, %r1; xor.b32 %r6, %r5, %r1;")),
        ("shared_loop", repeated(&memory, "ld.shared.u32 %r5, [%r3];")),
        ("gemv_f16", gemv_f16(&memory, 1536, 576)),
        ("gemv_w4a8", gemv_w4a8(&memory, 1536, 576)),
        ("gemm_w4a8_64x64x512", gemm_w4a8(&memory, 64, 64, 512)),
    ];
    println!("{:<22} {:>28} {:>28} {:>28}", "one core", "checks and meter", "checks", "neither");
    for (name, case) in cases.iter().filter(|(name, _)| name.contains(&filter)) {
        let columns = [(true, true), (true, false), (false, false)].map(|(checks, meter)| {
            let (rate, seconds) = measure(case, &options(checks, meter, 1));
            format!("{:.1} M/s, {:.3} ms", rate / 1e6, seconds * 1e3)
        });
        println!("{name:<22} {:>28} {:>28} {:>28}", columns[0], columns[1], columns[2]);
    }
    if "token".contains(&filter) {
        let make: [(&str, fn(&Memory, u32, u32) -> Case); 2] = [("f16", gemv_f16), ("w4a8", gemv_w4a8)];
        for (name, make) in make {
            println!(
                "token of a 135M model, linear layers in {name}, checks and meter, 2 workers: {:.3} s",
                token(make, 2)
            );
        }
    }
}
