//! The meter: what one launch executed and moved.

use std::fmt::Write;

use super::config::LaunchConfig;
use super::error::Fault;
use super::tensor_operand::TensorOperand;

/// Class of an instruction, as counted in a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Integer arithmetic, logic and shifts.
    Integer,
    /// f32 arithmetic.
    Float32,
    /// f64 arithmetic.
    Float64,
    /// f16 and bf16 arithmetic.
    Half,
    /// Conversions.
    Convert,
    /// Moves, selections and byte permutations.
    Move,
    /// Comparisons and predicate logic.
    Compare,
    /// Loads and stores of global, constant and generic addresses.
    Global,
    /// Loads and stores of shared memory, `ldmatrix` and `stmatrix`.
    Shared,
    /// Loads and stores of local memory and parameters.
    Local,
    /// Atomic operations.
    Atomic,
    /// Matrix multiplications.
    Tensor,
    /// Branches and ends.
    Control,
    /// Barriers of the block or cluster, fences.
    Barrier,
    /// `bar.warp.sync`.
    WarpBarrier,
    /// Shuffles, votes and reductions in a warp.
    Warp,
    /// Asynchronous copies and mbarriers.
    Async,
    /// Everything else.
    Other,
}

impl Class {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Integer,
        Self::Float32,
        Self::Float64,
        Self::Half,
        Self::Convert,
        Self::Move,
        Self::Compare,
        Self::Global,
        Self::Shared,
        Self::Local,
        Self::Atomic,
        Self::Tensor,
        Self::Control,
        Self::Barrier,
        Self::WarpBarrier,
        Self::Warp,
        Self::Async,
        Self::Other,
    ];

    /// Name in the JSON report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Half => "half",
            Self::Convert => "convert",
            Self::Move => "move",
            Self::Compare => "compare",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Atomic => "atomic",
            Self::Tensor => "tensor",
            Self::Control => "control",
            Self::Barrier => "barrier",
            Self::WarpBarrier => "warp_barrier",
            Self::Warp => "warp",
            Self::Async => "async",
            Self::Other => "other",
        }
    }
}

/// Counters that handlers keep while a block runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub load_bytes: u64,
    pub load_sectors: u64,
    pub store_bytes: u64,
    pub store_sectors: u64,
    pub shared_passes: u64,
    pub shared_ideal: u64,
    pub tensor: u64,
    /// Multiplications and additions, by [`TensorOperand`].
    pub tensor_products: [u64; TensorOperand::ALL.len()],
    pub atomics: u64,
    pub async_copies: u64,
}

impl Counters {
    #[inline(always)]
    pub(crate) fn global(&mut self, write: bool, bytes: u64, sectors: u64) {
        if write {
            self.store_bytes += bytes;
            self.store_sectors += sectors;
        } else {
            self.load_bytes += bytes;
            self.load_sectors += sectors;
        }
    }

    #[inline(always)]
    pub(crate) fn shared(&mut self, passes: u64, ideal: u64) {
        self.shared_passes += passes;
        self.shared_ideal += ideal;
    }

    #[inline(always)]
    pub(crate) fn tensor(&mut self, operand: TensorOperand, products: usize) {
        self.tensor += 1;
        self.tensor_products[operand as usize] += products as u64;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.load_bytes += other.load_bytes;
        self.load_sectors += other.load_sectors;
        self.store_bytes += other.store_bytes;
        self.store_sectors += other.store_sectors;
        self.shared_passes += other.shared_passes;
        self.shared_ideal += other.shared_ideal;
        self.tensor += other.tensor;
        self.tensor_products.iter_mut().zip(other.tensor_products).for_each(|(sum, n)| *sum += n);
        self.atomics += other.atomics;
        self.async_copies += other.async_copies;
    }
}

/// A finding that did not stop the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The first of its kind at its instruction.
    pub fault: Fault,
    /// How many there were.
    pub count: u64,
}

impl Warning {
    /// Adds a finding to a list, to those of the same kind and instruction if there are any.
    pub(crate) fn add(list: &mut Vec<Self>, warning: Self) {
        let same = |w: &&mut Self| (w.fault.kind, w.fault.ptx_line) == (warning.fault.kind, warning.fault.ptx_line);
        match list.iter_mut().find(same) {
            Some(known) => known.count += warning.count,
            None => list.push(warning),
        }
    }
}

/// Counts of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the kernel's entry.
    pub kernel: String,
    /// Shape of the launch.
    pub config: LaunchConfig,
    /// Blocks that ran: all of the grid, unless a [`Sample`](super::Sample) was taken. All counts are theirs.
    pub blocks_run: u64,
    /// Warp-instructions executed, those whose guard held for no lane included.
    pub instructions: u64,
    /// Warp-instructions by [`Class`], in the order of [`Class::ALL`].
    pub by_class: [u64; 18],
    /// Bytes that lanes asked for in global loads; 0 with the meter off, as the next five.
    pub global_load_bytes: u64,
    /// 32-byte sectors that those loads touched, each counted once per warp-instruction.
    pub global_load_sectors: u64,
    /// Bytes that lanes wrote in global stores.
    pub global_store_bytes: u64,
    /// 32-byte sectors that those stores touched.
    pub global_store_sectors: u64,
    /// Passes over the banks of shared memory that accesses took.
    pub shared_passes: u64,
    /// Passes in excess of one per 128 bytes asked for: bank conflicts.
    pub shared_bank_conflicts: u64,
    /// `mma` instructions.
    pub tensor_instructions: u64,
    /// Multiplications (each with its addition) of these, by [`TensorOperand`], in the order of [`TensorOperand::ALL`].
    pub tensor_products: [u64; TensorOperand::ALL.len()],
    /// Atomic instructions.
    pub atomic_instructions: u64,
    /// Asynchronous copy instructions.
    pub async_copies: u64,
    /// 32-bit registers per thread: as the compiler settled them, or estimated from the PTX.
    pub registers: u32,
    /// Compute capability of the machine code that states `registers`; `None` where they are an estimate.
    pub registers_arch: Option<u32>,
    /// Values that are live at once beyond `registers` where these are an estimate; a compiler would spill them.
    pub spilled_registers: u32,
    /// Shared memory per block.
    pub shared_bytes: u32,
    /// Findings of the checks that only warn.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// A report in which nothing has run.
    pub(crate) fn new(kernel: &str, config: &LaunchConfig) -> Self {
        Self {
            kernel: kernel.to_owned(),
            config: config.clone(),
            blocks_run: 0,
            instructions: 0,
            by_class: [0; Class::ALL.len()],
            global_load_bytes: 0,
            global_load_sectors: 0,
            global_store_bytes: 0,
            global_store_sectors: 0,
            shared_passes: 0,
            shared_bank_conflicts: 0,
            tensor_instructions: 0,
            tensor_products: [0; TensorOperand::ALL.len()],
            atomic_instructions: 0,
            async_copies: 0,
            registers: 0,
            registers_arch: None,
            spilled_registers: 0,
            shared_bytes: 0,
            warnings: Vec::new(),
        }
    }

    /// Executions of one class of instructions.
    pub fn class(&self, class: Class) -> u64 {
        self.by_class[class as usize]
    }

    /// Fills in what handlers counted and how often each instruction ran.
    pub(crate) fn fill(&mut self, counters: &Counters, counts: &[u64], classes: &[Class], merged: &[(u32, Class)]) {
        let own = counts.iter().copied().zip(classes.iter().copied());
        let merged = merged.iter().filter_map(|&(at, class)| Some((*counts.get(at as usize)?, class)));
        for (count, class) in own.chain(merged) {
            self.instructions += count;
            self.by_class[class as usize] += count;
        }
        self.global_load_bytes = counters.load_bytes;
        self.global_load_sectors = counters.load_sectors;
        self.global_store_bytes = counters.store_bytes;
        self.global_store_sectors = counters.store_sectors;
        self.shared_passes = counters.shared_passes;
        self.shared_bank_conflicts = counters.shared_passes.saturating_sub(counters.shared_ideal);
        self.tensor_instructions = counters.tensor;
        self.tensor_products = counters.tensor_products;
        self.atomic_instructions = counters.atomics;
        self.async_copies = counters.async_copies;
    }

    /// Writes the report as one JSON object.
    pub fn to_json(&self) -> String {
        let mut out = String::from("{\"kernel\":\"");
        for c in self.kernel.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if c.is_control() => {}
                c => out.push(c),
            }
        }
        out.push('"');
        for (name, [x, y, z]) in
            [("grid", self.config.grid), ("block", self.config.block), ("cluster", self.config.cluster)]
        {
            // Writing to a String cannot fail.
            let _ = write!(out, ",\"{name}\":[{x},{y},{z}]");
        }
        let numbers = [
            ("blocks_run", self.blocks_run),
            ("instructions", self.instructions),
            ("global_load_bytes", self.global_load_bytes),
            ("global_load_sectors", self.global_load_sectors),
            ("global_store_bytes", self.global_store_bytes),
            ("global_store_sectors", self.global_store_sectors),
            ("shared_passes", self.shared_passes),
            ("shared_bank_conflicts", self.shared_bank_conflicts),
            ("tensor_instructions", self.tensor_instructions),
            ("atomic_instructions", self.atomic_instructions),
            ("async_copies", self.async_copies),
            ("registers", self.registers.into()),
            ("spilled_registers", self.spilled_registers.into()),
            ("shared_bytes", self.shared_bytes.into()),
        ];
        for (name, value) in numbers {
            let _ = write!(out, ",\"{name}\":{value}");
        }
        let _ = match self.registers_arch {
            Some(arch) => write!(out, ",\"registers_from\":\"sm_{arch}\""),
            None => write!(out, ",\"registers_from\":\"estimate\""),
        };
        let products = TensorOperand::ALL.map(|operand| (operand.name(), self.tensor_products[operand as usize]));
        write_used(&mut out, "tensor_products", &products);
        write_used(&mut out, "classes", &Class::ALL.map(|class| (class.name(), self.class(class))));
        out.push('}');
        out
    }
}

/// Writes the numbers that are not 0 as an object.
fn write_used(out: &mut String, name: &str, values: &[(&str, u64)]) {
    let _ = write!(out, ",\"{name}\":{{");
    for (index, (name, value)) in values.iter().filter(|(_, value)| *value > 0).enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\"{name}\":{value}");
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_matches_the_counts() {
        let mut report = Report::new("a\"b", &LaunchConfig::new([2, 3, 1], [32, 1, 1]));
        let mut counters = Counters { load_sectors: 4, shared_passes: 5, shared_ideal: 2, ..Counters::default() };
        counters.tensor(TensorOperand::Int8, 4096);
        counters.tensor(TensorOperand::Int8, 4096);
        report.fill(&counters, &[3, 4], &[Class::Integer, Class::Tensor], &[(1, Class::Move)]);
        let json = report.to_json();
        let head = "{\"kernel\":\"a\\\"b\",\"grid\":[2,3,1],\"block\":[32,1,1],\"cluster\":[1,1,1],\"blocks_run\":0,";
        assert!(json.starts_with(&format!("{head}\"instructions\":11,")), "{json}");
        assert!(json.contains("\"tensor_instructions\":2,"), "{json}");
        assert!(json.contains(",\"tensor_products\":{\"int8\":8192},"), "{json}");
        assert!(TensorOperand::ALL.iter().enumerate().all(|(at, &operand)| operand as usize == at));
        assert!(json.contains("\"global_load_sectors\":4,") && json.contains("\"shared_bank_conflicts\":3,"), "{json}");
        assert!(json.contains(",\"registers_from\":\"estimate\","), "{json}");
        assert!(json.ends_with("\"classes\":{\"integer\":3,\"move\":4,\"tensor\":4}}"), "{json}");
        let json = Report { registers: 40, registers_arch: Some(90), ..report }.to_json();
        assert!(
            json.contains("\"registers\":40,\"spilled_registers\":0,\"shared_bytes\":0,\"registers_from\":\"sm_90\","),
            "{json}"
        );
        assert!(Class::ALL.iter().enumerate().all(|(at, &class)| class as usize == at));
    }
}
