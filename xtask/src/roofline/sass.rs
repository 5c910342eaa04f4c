//! The main loop of a kernel in machine code: its issue slots, and how long one warp needs for a turn of it.
//!
//! # Method
//! A turn is walked once, every instruction of it in order; forward branches are not taken, and an inner loop runs once. An
//! instruction issues a cycle after the one before it, and not before what it reads is there: [`latency`] cycles after its issue,
//! loads of 8 bytes a lane and more after the time that memory needs, narrower ones after that of the second-level cache.
//! `LDGDEPBAR` closes a group of asynchronous copies, `DEPBAR.LE SB0, n` waits for all but the last n. Turns follow each other
//! until they take the same time.

use std::collections::HashMap;

/// What stands for a turn of the main loop where it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// `mma.sync` of a warp.
    Tensor,
    /// Bytes that a warp's streaming loads ask for.
    Streamed,
    /// Bytes that all of its loads ask for.
    Loaded,
}

impl Anchor {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Tensor, "mma"), (Self::Streamed, "streamed bytes"), (Self::Loaded, "loaded bytes")];
}

/// The main loop of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MainLoop {
    /// Instructions of a turn.
    pub slots: f64,
    pub anchor: Anchor,
    /// How many anchors a turn of a warp has.
    pub anchors: f64,
    /// A turn takes one warp `cycles`, `memory_trips` times as long as memory needs and `cache_trips` times as long as the
    /// second-level cache needs.
    pub cycles: f64,
    pub memory_trips: f64,
    pub cache_trips: f64,
}

#[derive(Debug, Default, Clone)]
struct Instruction {
    name: String,
    reads: Vec<u16>,
    writes: Vec<u16>,
    /// The label that a branch goes to.
    target: Option<String>,
    /// Copies that may be on their way after a wait.
    pending: Option<usize>,
}

impl Instruction {
    fn is(&self, name: &str) -> bool {
        self.name.split('.').next() == Some(name)
    }

    fn has(&self, part: &str) -> bool {
        self.name.split('.').skip(1).any(|of| of == part)
    }

    fn is_tensor(&self) -> bool {
        self.is("IMMA") || self.is("HMMA")
    }

    fn is_load(&self) -> bool {
        self.is("LDG") || self.is("LDGSTS")
    }

    /// Bytes of a lane.
    fn bytes(&self) -> f64 {
        let sizes = [("128", 16.0), ("64", 8.0), ("U16", 2.0), ("S16", 2.0), ("U8", 1.0), ("S8", 1.0)];
        sizes.iter().find(|(part, _)| self.has(part)).map_or(4.0, |&(_, bytes)| bytes)
    }

    /// A load that passes by the first-level cache, as weights are read.
    fn is_streaming(&self) -> bool {
        self.is("LDGSTS") || self.is("LDG") && self.bytes() >= 16.0 && (self.has("NA") || self.has("EF"))
    }

    fn anchors(&self, anchor: Anchor) -> f64 {
        match anchor {
            Anchor::Tensor => f64::from(u8::from(self.is_tensor())),
            Anchor::Streamed if self.is_streaming() => 32.0 * self.bytes(),
            Anchor::Loaded if self.is_load() => 32.0 * self.bytes(),
            _ => 0.0,
        }
    }
}

/// Cycles until a result can be read, loads from global memory aside. Sources: Jia et al., "Dissecting the NVIDIA Volta GPU
/// architecture via microbenchmarking" (arXiv 1804.06826), and Sun et al., "Dissecting Tensor Cores via Microbenchmarks" (arXiv
/// 2206.02874).
fn latency(instruction: &Instruction) -> f64 {
    match instruction.name.split('.').next().unwrap_or_default() {
        "IMMA" | "HMMA" => 25.0,
        "LDS" | "LDSM" | "LDL" | "LDC" | "SHFL" | "R2UR" | "VOTE" | "REDUX" => 29.0,
        "MUFU" | "I2F" | "F2I" | "F2F" | "S2R" | "S2UR" | "POPC" => 20.0,
        "BAR" => 30.0,
        _ => 5.0,
    }
}

/// Numbers of registers: R, UR, P and UP one after the other; those that always hold zero or true have none.
fn register(word: &str) -> Option<u16> {
    let (prefix, first) = [("UR", 256), ("UP", 332), ("R", 0), ("P", 320)].into_iter().find(|(prefix, _)| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })?;
    let digits: String = word[prefix.len()..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u16>().ok().map(|number| first + number)
}

fn registers(operand: &str) -> Vec<u16> {
    operand.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(register).collect()
}

/// Registers in a row that an operand of an instruction names by the first: results and operands of matrix units, wide loads.
fn width(instruction: &Instruction, operand: usize) -> u16 {
    match operand {
        0 if instruction.is_tensor() => 4,
        1 | 3 if instruction.is_tensor() => 4,
        2 if instruction.is_tensor() => 2,
        0 if instruction.is("LDSM") => {
            if instruction.has("4") {
                4
            } else {
                2
            }
        }
        0 if instruction.has("128") => 4,
        0 if instruction.has("64") || instruction.has("WIDE") => 2,
        _ => 1,
    }
}

/// Reads one line: `/*0010*/ @!P0 IADD3 R0, R30, 0x3f, RZ ;`.
fn parse(line: &str) -> Option<Instruction> {
    let text = line.trim().strip_prefix("/*")?.split_once("*/")?.1.trim().trim_end_matches(';').trim();
    let (guard, text) = match text.strip_prefix('@') {
        Some(rest) => rest.split_once(char::is_whitespace)?,
        None => ("", text),
    };
    let (name, operands) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    let mut instruction = Instruction { name: name.to_owned(), reads: registers(guard), ..Instruction::default() };
    if let Some((_, label)) = operands.split_once("`(") {
        instruction.target = label.split_once(')').map(|(label, _)| label.to_owned());
    }
    if instruction.is("DEPBAR") {
        let last = operands.rsplit(',').next().unwrap_or_default().trim();
        instruction.pending = usize::from_str_radix(last.trim_start_matches("0x"), 16).ok();
    }
    let stores = ["ST", "STG", "STS", "STL", "RED", "BRA", "BAR", "LDGSTS", "BSSY", "BSYNC", "EXIT", "WARPSYNC"];
    let has_result = !stores.iter().any(|store| instruction.is(store));
    for (index, operand) in operands.split(',').enumerate() {
        let wide = width(&instruction, index);
        let named = registers(operand);
        let all = named.iter().flat_map(|&first| first..first + if operand.contains('[') { 1 } else { wide });
        if index == 0 && has_result {
            instruction.writes.extend(all);
        } else {
            instruction.reads.extend(all);
        }
    }
    Some(instruction)
}

/// The code of a kernel: instructions, and where labels stand.
struct Code {
    instructions: Vec<Instruction>,
    labels: HashMap<String, usize>,
}

impl Code {
    /// Reads what nvdisasm prints of a kernel; nothing if it is not there.
    fn of(text: &str, kernel: &str) -> Option<Self> {
        let head = format!(".text.{kernel}:");
        let mut lines = text.lines().skip_while(|line| line.trim() != head).skip(1).peekable();
        lines.peek()?;
        let (mut instructions, mut labels) = (Vec::new(), HashMap::new());
        for line in lines.take_while(|line| !line.starts_with("//-----")) {
            if let Some(label) = line.trim().strip_suffix(':') {
                labels.insert(label.to_owned(), instructions.len());
            }
            instructions.extend(parse(line));
        }
        Some(Self { instructions, labels })
    }

    /// First and last instruction of every loop: of each branch back to a label.
    fn loops(&self) -> Vec<(usize, usize)> {
        let start = |instruction: &Instruction| self.labels.get(instruction.target.as_ref()?).copied();
        let back = |(at, instruction): (usize, &Instruction)| {
            // the last branch of a kernel goes to itself
            let from = start(instruction).filter(|&from| instruction.is("BRA") && from < at)?;
            Some((from, at))
        };
        self.instructions.iter().enumerate().filter_map(back).collect()
    }

    fn anchors(&self, anchor: Anchor, (first, last): (usize, usize)) -> f64 {
        self.instructions[first..=last].iter().map(|instruction| instruction.anchors(anchor)).sum()
    }
}

/// Finds the main loop of a kernel in what nvdisasm prints: the smallest loop with at least half of the anchors of the loop that
/// has most, and the whole kernel where no loop has any.
pub fn main_loop(text: &str, kernel: &str) -> Option<MainLoop> {
    let code = Code::of(text, kernel)?;
    let whole = (0, code.instructions.len().checked_sub(1)?);
    let anchor = Anchor::ALL.into_iter().map(|(anchor, _)| anchor).find(|&anchor| code.anchors(anchor, whole) > 0.0)?;
    let mut loops = code.loops();
    loops.retain(|&range| code.anchors(anchor, range) > 0.0);
    let most = loops.iter().map(|&range| code.anchors(anchor, range)).fold(0.0, f64::max);
    loops.retain(|&range| code.anchors(anchor, range) >= most / 2.0);
    let range = loops.into_iter().min_by_key(|(first, last)| last - first).unwrap_or(whole);
    let turn = &code.instructions[range.0..=range.1];
    // the time is linear in both latencies where no other of the waits becomes the longest
    const MEMORY: f64 = 1500.0;
    const CACHE: f64 = 263.0;
    const STEP: f64 = 1.0;
    let cycles = walk(turn, MEMORY, CACHE);
    let memory_trips = (walk(turn, MEMORY + STEP, CACHE) - cycles) / STEP;
    let cache_trips = (walk(turn, MEMORY, CACHE + STEP) - cycles) / STEP;
    Some(MainLoop {
        slots: turn.len() as f64,
        anchor,
        anchors: code.anchors(anchor, range),
        cycles: cycles - memory_trips * MEMORY - cache_trips * CACHE,
        memory_trips,
        cache_trips,
    })
}

/// Cycles of a turn in the long run.
fn walk(turn: &[Instruction], memory: f64, cache: f64) -> f64 {
    const WARM: usize = 12;
    const COUNTED: usize = 12;
    let mut ready = [0.0f64; 350];
    let (mut now, mut copied, mut groups, mut start) = (0.0f64, 0.0f64, Vec::new(), 0.0);
    for index in 0..WARM + COUNTED {
        if index == WARM {
            start = now;
        }
        for instruction in turn {
            now = instruction.reads.iter().map(|&r| ready[usize::from(r)]).fold(now + 1.0, f64::max);
            let trip = if instruction.bytes() >= 8.0 { memory } else { cache };
            if instruction.is("LDGSTS") {
                copied = copied.max(now + trip);
            } else if instruction.is("LDGDEPBAR") {
                groups.push(copied);
            } else if let Some(pending) = instruction.pending {
                now = groups.iter().rev().skip(pending).copied().fold(now, f64::max);
            } else if instruction.is("BAR") {
                now += latency(instruction);
            }
            let is_global = ["LDG", "ATOMG", "ATOM"].iter().any(|name| instruction.is(name));
            let after = if is_global { trip } else { latency(instruction) };
            instruction.writes.iter().for_each(|&r| ready[usize::from(r)] = now + after);
        }
    }
    (now - start) / COUNTED as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels of few lines around a loop.
    fn kernel(turn: &str) -> String {
        format!(
            "//-----\n.text.other:\n        /*0000*/                   EXIT ;\n//-----\n.text.k:\n\
             \x20       /*0000*/                   MOV R9, RZ ;\n.L_x_1:\n{turn}\
             \x20       /*0100*/              @!P0 BRA `(.L_x_1) ;\n        /*0110*/                   EXIT ;\n\
             .L_x_2:\n        /*0120*/                   BRA `(.L_x_2) ;\n"
        )
    }

    fn line(text: &str) -> String {
        format!("        /*0010*/                   {text} ;\n")
    }

    fn of(turn: &[&str]) -> MainLoop {
        main_loop(&kernel(&turn.iter().map(|text| line(text)).collect::<String>()), "k").expect("a main loop")
    }

    #[test]
    fn a_load_used_in_its_turn_waits_once_a_turn_and_two_one_after_the_other_twice() {
        let one = of(&["LDG.E.128 R4, [R2.64]", "IADD3 R8, R7, R8, RZ"]);
        assert_eq!((one.memory_trips, one.cache_trips, one.slots), (1.0, 0.0, 3.0));
        assert_eq!((one.anchor, one.anchors), (Anchor::Loaded, 512.0));
        let use_between =
            ["LDG.E.128 R4, [R2.64]", "IADD3 R8, R7, R8, RZ", "LDG.E R5, [R2.64]", "IADD3 R8, R5, R8, RZ"];
        let two = of(&use_between);
        assert_eq!((two.memory_trips, two.cache_trips), (1.0, 1.0));
        let both = of(&["LDG.E.128 R4, [R2.64]", "LDG.E.128 R12, [R2.64]", "IADD3 R8, R7, R12, RZ"]);
        assert_eq!(both.memory_trips, 1.0);
    }

    #[test]
    fn copies_three_stages_ahead_wait_a_third_of_a_trip_a_turn() {
        let stages = of(&["DEPBAR.LE SB0, 0x2", "LDGSTS.E.BYPASS.128 [R5], [R6.64], P1", "LDGDEPBAR"]);
        assert!((stages.memory_trips - 1.0 / 3.0).abs() < 0.05, "{stages:?}");
        assert_eq!(stages.anchor, Anchor::Streamed);
    }

    #[test]
    fn matrix_units_are_counted_first_and_their_results_are_four_registers() {
        let chain = of(&["LDG.E.NA.128.CONSTANT R4, [R2.64]", "IMMA.16832.S8.S8 R28, R32.ROW, R42.COL, R28"]);
        assert_eq!((chain.anchor, chain.anchors), (Anchor::Tensor, 1.0));
        assert!(chain.cycles >= 25.0 && chain.memory_trips == 0.0, "{chain:?}");
        assert_eq!(
            parse(&line("IMMA.16832.S8.S8 R28, R32.ROW, R42.COL, R28")).expect("a line").writes,
            [28, 29, 30, 31]
        );
    }

    #[test]
    fn a_kernel_that_is_not_there_has_no_loop() {
        assert_eq!(main_loop(&kernel(""), "another"), None);
    }
}
