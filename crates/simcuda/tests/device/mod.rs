//! What the tests share: a device with buffers, kernels of one instruction, and values that find bugs.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;

use simcuda::machine::{Arch, Checks, Fault, Function, LaunchConfig, Level, Memory, Module, Options, Report, launch};

/// A device with every check on.
pub struct Device {
    pub memory: Memory,
    pub options: Options,
}

/// PTX text around a body of functions.
pub fn ptx(body: &str) -> String {
    format!(".version 8.6\n.target sm_90a\n.address_size 64\n{body}")
}

impl Device {
    pub fn new() -> Self {
        Self::of(Arch::Sm80)
    }

    pub fn of(arch: Arch) -> Self {
        let checks = Checks::all(Level::Fatal);
        let options = Options { checks, workers: 2, instruction_budget: 200_000_000, ..Options::for_arch(arch) };
        Self { memory: Memory::new(256 << 20).expect("address space"), options }
    }

    pub fn load(&self, text: &str) -> Arc<Module> {
        Module::load(&self.memory, text, "test.ptx").unwrap_or_else(|e| panic!("{e}"))
    }

    /// The only entry of a text.
    pub fn kernel(&self, text: &str) -> Arc<Function> {
        Arc::clone(&self.load(text).functions()[0])
    }

    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let p = self.memory.alloc(bytes.len()).expect("fits");
        self.memory.write(p, bytes).expect("inside");
        p
    }

    pub fn words(&self, values: &[u32]) -> u64 {
        self.upload(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn download(&self, p: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(&mut bytes, p).expect("inside");
        bytes
    }

    pub fn read_words(&self, p: u64, count: usize) -> Vec<u32> {
        self.download(p, 4 * count).chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }

    /// Launches with 64-bit arguments.
    pub fn run(&self, f: &Function, config: &LaunchConfig, args: &[u64]) -> Result<Report, Fault> {
        let params: Vec<u8> = args.iter().flat_map(|a| a.to_le_bytes()).collect();
        launch(&self.memory, f, config, &params, &self.options)
    }
}

/// One block of `threads`, or several.
pub fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig::new([blocks, 1, 1], [threads, 1, 1])
}

/// A splitmix64 sequence.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Register classes of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    B16,
    B32,
    B64,
    F32,
    F64,
    Pred,
}

impl Kind {
    fn reg(self) -> &'static str {
        match self {
            Kind::B16 => ".b16",
            Kind::B32 => ".b32",
            Kind::B64 => ".b64",
            Kind::F32 => ".f32",
            Kind::F64 => ".f64",
            Kind::Pred => ".pred",
        }
    }

    fn bits(self) -> u32 {
        match self {
            Kind::B16 => 16,
            Kind::B32 | Kind::F32 => 32,
            Kind::B64 | Kind::F64 => 64,
            Kind::Pred => 1,
        }
    }

    fn edges(self) -> Vec<u64> {
        let bits = self.bits();
        let top = 1u64 << (bits - 1);
        let mut values =
            vec![0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 0x7f, 0x80, 0xff, top - 1, top, top + 1, u64::MAX, u64::MAX - 1];
        values.extend(match self {
            Kind::B16 => vec![0x3c00, 0xbc00, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x0400, 0x03ff, 0x3f80, 0x7f80, 0x4248],
            Kind::B32 | Kind::F32 => {
                let f = [
                    1.0f32,
                    -1.0,
                    0.5,
                    1.5,
                    2.5,
                    -2.5,
                    3.7,
                    1e-40,
                    f32::MIN_POSITIVE,
                    f32::MAX,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                ];
                let mut v: Vec<u64> = f.iter().map(|x| x.to_bits().into()).collect();
                v.extend([0x7fc0_0000, 0xffc0_0001, 0x8000_0000, 0x3c00_bc00, 0x7c00_7e00, 0xdead_beef]);
                v.extend(
                    [2147483648f32, -2147483648f32, 4294967296f32, 65504.0, 65520.0, 0.1]
                        .map(|x| u64::from(x.to_bits())),
                );
                v
            }
            Kind::B64 | Kind::F64 => {
                [1.0f64, -1.0, 0.5, 2.5, 1e-310, f64::MAX, f64::INFINITY, 4294967296.5, 1e300, 0.1]
                    .map(f64::to_bits)
                    .to_vec()
            }
            Kind::Pred => vec![],
        });
        values.iter().map(|v| v & (u64::MAX >> (64 - bits))).collect()
    }

    /// A random pattern; floats keep to all exponents alike.
    pub fn random(self, random: &mut Random) -> u64 {
        let value = random.next() >> (random.next() % 24);
        value & (u64::MAX >> (64 - self.bits()))
    }
}

/// Tuples of operands: edges against edges, then random bits.
pub fn operands(kinds: &[Kind], random_count: usize) -> Vec<Vec<u64>> {
    let mut random = Random(7);
    let mut all = Vec::new();
    let edges: Vec<Vec<u64>> = kinds.iter().map(|k| k.edges()).collect();
    if kinds.len() == 1 {
        all.extend(edges[0].iter().map(|&e| vec![e]));
    }
    if kinds.len() >= 2 {
        for &a in &edges[0] {
            for &b in &edges[1] {
                let rest = edges[2..].iter().map(|e| e[random.next() as usize % e.len()]);
                all.push([a, b].into_iter().chain(rest).collect());
            }
        }
    }
    for _ in 0..random_count {
        all.push(kinds.iter().map(|k| k.random(&mut random)).collect());
    }
    all
}

/// Runs `instruction` (with operands `%d`, `%x0`, `%x1`, …) over tuples of operands; a predicate result is 0 or 1.
pub fn evaluate(instruction: &str, inputs: &[Kind], output: Kind, tuples: &[Vec<u64>]) -> Vec<u64> {
    let device = Device::new();
    let mut body = String::new();
    let mut registers = format!(".reg {} %d;\n", output.reg());
    for (n, kind) in inputs.iter().enumerate() {
        registers += &format!(".reg {} %x{n};\n", kind.reg());
        body += &format!("ld.global.b{} %x{n}, [%in+{}];\n", kind.bits(), 8 * n);
    }
    let store = match output {
        Kind::Pred => "selp.b32 %w, 1, 0, %d;\nst.global.b32 [%out], %w;".to_owned(),
        kind => format!("st.global.b{} [%out], %d;", kind.bits()),
    };
    let text = ptx(&format!(
        ".visible .entry k(.param .u64 pin, .param .u64 pout, .param .u64 pn) {{
            .reg .b64 %in, %out, %n, %at; .reg .b32 %t, %c, %b, %w; .reg .pred %p, %q, %r;
            {registers}
            ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; ld.param.u64 %n, [pn];
            mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x; mad.lo.u32 %t, %c, 128, %t;
            cvt.u64.u32 %at, %t; setp.ge.u64 %p, %at, %n; @%p ret;
            mad.lo.u64 %in, %at, {}, %in; mad.lo.u64 %out, %at, 8, %out;
            {body} {instruction}\n {store} ret; }}",
        8 * inputs.len()
    ));
    let flat: Vec<u8> = tuples.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let (input, result) = (device.upload(&flat), device.upload(&vec![0; 8 * tuples.len()]));
    let blocks = tuples.len().div_ceil(128) as u32;
    let kernel = device.kernel(&text);
    let run = device.run(&kernel, &shape(blocks, 128), &[input, result, tuples.len() as u64]);
    run.unwrap_or_else(|fault| panic!("{instruction}: {fault}"));
    device.download(result, 8 * tuples.len()).chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("8"))).collect()
}

/// Compares an instruction with its definition over edges and random bits.
pub fn check(instruction: &str, inputs: &[Kind], output: Kind, definition: impl Fn(&[u64]) -> u64) {
    let tuples = operands(inputs, 600);
    let results = evaluate(instruction, inputs, output, &tuples);
    for (tuple, result) in tuples.iter().zip(results) {
        let expected = definition(tuple) & (u64::MAX >> (64 - output.bits()));
        assert_eq!(result, expected, "{instruction} of {tuple:x?}: expected {expected:#x}, got {result:#x}");
    }
}

/// Runs the other tests of the calling executable again on the forms for processors without AVX2.
pub fn rerun_portable(caller: &str) {
    if std::env::var_os("SIMCUDA_PORTABLE").is_some() {
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().expect("a test knows its executable"));
    let run = command.args(["--skip", caller]).env("SIMCUDA_PORTABLE", "1").output().expect("a test can start itself");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
}
