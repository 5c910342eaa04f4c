//! docs/roofline.md.

use std::fmt::Write as _;

use super::code::Codes;
use super::counts::Row;
use super::goals::Outcome;
use super::machine::{COMMON_SOURCES, MACHINES};
use super::predict::Resource;
use super::prediction::Prediction;
use super::published::MEASUREMENTS;
use super::sass::Anchor;

const HEAD: &str = "# How fast the kernels can be, by count\n\n\
Written by `cargo xtask roofline`. **Every time here is a prediction: no GPU has measured these kernels yet.** Counts are exact:\n\
bytes, passes over shared memory and products of matrix units are those that the simulated driver's meter counts on launches of\n\
the real shapes (of large grids on some columns of blocks); slots and waits are those of the machine code.\n\n\
A launch takes as long as the resource that needs longest, and what a launch costs by itself:\n\n\
| resource | time |\n|---|---|\n\
| memory | bytes, each once (what rows of tiles share once more for each wave, where half of the second-level cache does not hold it) / copy |\n\
| L2 | 32 · sectors of loads and stores / rate of the second-level cache; hits of the first-level cache are not taken off |\n\
| shared memory | passes over the banks of the busiest multiprocessor, one a cycle |\n\
| matrix units | products of the busiest multiprocessor / its rate by `mma.sync` |\n\
| issue slots | instructions of the busiest multiprocessor, 4 a cycle: those that the meter counts (of PTX) or the machine code's main loop times its turns, whichever are more |\n\
| latency | turns of a warp's main loop × waves of blocks × a turn alone on the machine: its own cycles and the trips to memory and cache that it waits for |\n\
| bytes in flight | the same turns, trips to memory alone, each as long as the launch makes memory busy: bytes on their way against bandwidth × latency |\n\
| launches | the gap between kernels, a first load and a last store, for each; where all blocks of a launch wait for each other, as much again, less the time in which memory brings what was asked for before it, of which the second-level cache keeps at most half of what it holds |\n\n\
The busiest multiprocessor has ⌈blocks / multiprocessors⌉ blocks, so waves and tails are in its times. Loads of 8 bytes a lane and\n\
more come from memory, narrower ones from the second-level cache. A main loop of more than one and a half times the instructions that\n\
ran has branches that the launch does not take, and counts as what ran. What the model leaves out: turns of loops other than the main\n\
one, conflicts between resources, clocks that fall under load. So three things of a decoded token are missing: what a block of\n\
`w4a8_gemv_quantize_*` and `w4a8_gemv_pair_*` quantizes before each product (about 1 µs for 4096 features with RMSNorm, while its first weights come), what\n\
a block of `attention_decode_*` turns and writes before its first keys (two trips to the second-level cache; the block that writes waits for\n\
two more), and what the last block of a split context merges (by its trips about 1 µs at 1150 positions and 10 µs at 32768).\n\
\n\
cuBLAS in 16 bits is modelled by the same rules, with tiles of 128 × 256 and its\n\
published rate of matrix units, and neither tail nor slots.\n";

/// Machines of the detailed table of launches.
const DETAILED: &str = "H200";

/// Writes the document.
pub fn render(predictions: &[Prediction], outcomes: &[Outcome], rows: &[Row], codes: &Codes) -> String {
    let mut text = String::from(HEAD);
    goals(&mut text, outcomes);
    published(&mut text);
    rows_of_machines(&mut text, predictions);
    launches(&mut text, predictions);
    counts(&mut text, rows);
    code(&mut text, codes);
    machines(&mut text);
    text
}

fn micro(seconds: f64) -> String {
    let micro = seconds * 1e6;
    if micro < 99.95 { format!("{micro:.1}") } else { format!("{micro:.0}") }
}

fn goals(text: &mut String, outcomes: &[Outcome]) {
    text.push_str("\n## Goals\n\n| work | machine | goal | predicted | |\n|---|---|---|---|---|\n");
    for Outcome { work, machine, goal, predicted, reached, bound, note } in outcomes {
        let note = note.map_or(String::new(), |note| format!(": {note}"));
        let verdict = if *reached { "reached".to_owned() } else { format!("missed, bound by {bound}{note}") };
        let _ = writeln!(text, "| {work} | {machine} | {goal} | {predicted} | {verdict} |");
    }
    let reached = outcomes.iter().filter(|outcome| outcome.reached).count();
    let _ = writeln!(text, "\n{reached} of {} goals are reached.", outcomes.len());
}

fn published(text: &mut String) {
    text.push_str(
        "\n## The model beside published measurements\n\n\
         Of the others' kernels only bytes and products are modelled, since their counts are not at hand: the error is what they lose \
         to everything else.\n\n\
         | what | machine | M, N, K | measured µs | predicted µs | error | source |\n|---|---|---|---|---|---|---|\n",
    );
    for measurement in &MEASUREMENTS {
        let (m, n, k) = measurement.shape;
        let _ = writeln!(
            text,
            "| {} | {} | {m}, {n}, {k} | {} | {} | {:+.0}% | {} |",
            measurement.what,
            measurement.machine,
            measurement.microseconds,
            micro(measurement.predicted_seconds()),
            100.0 * measurement.error(),
            measurement.source,
        );
    }
}

fn rows_of_machines(text: &mut String, predictions: &[Prediction]) {
    text.push_str("\n## Rows\n\nMicroseconds; of a call of several launches the sums. The limit is a copy of all bytes, each once, or all products at the data sheet's int8 rate.\n");
    for machine in &MACHINES {
        let _ = write!(text, "\n### {}\n\n| row | µs | bound by | × cuBLAS fp16 | % of limit |", machine.name);
        for (_, name) in Resource::OVERLAPPED {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, " launches |\n|---|---|---|---|---|{}", "---|".repeat(Resource::OVERLAPPED.len() + 1));
        for of in predictions.iter().filter(|of| of.machine.name == machine.name) {
            let library = of.library.map_or("–".to_owned(), |library| format!("{:.2}", library / of.seconds()));
            let limit = 100.0 * of.limit / of.seconds();
            let _ = write!(text, "| {} | {} | {} | {library} | {limit:.0} |", of.id, micro(of.seconds()), of.bound());
            of.resources().iter().for_each(|&seconds| {
                let _ = write!(text, " {} |", micro(seconds));
            });
            let launches = of.launches.iter().map(|(_, times)| times.launch).sum();
            let _ = writeln!(text, " {} |", micro(launches));
        }
    }
}

fn launches(text: &mut String, predictions: &[Prediction]) {
    let _ = writeln!(
        text,
        "\n## The launches of a decoded layer on {DETAILED}\n\n| kernel | µs | bound by |\n|---|---|---|"
    );
    let of_layer = |of: &&Prediction| of.machine.name == DETAILED && of.id.starts_with("decode/");
    for (kernel, times) in predictions.iter().filter(of_layer).flat_map(|of| &of.launches) {
        let _ = writeln!(text, "| `{kernel}` | {} | {} |", micro(times.seconds()), times.bound().name());
    }
}

fn counts(text: &mut String, rows: &[Row]) {
    text.push_str(
        "\n## Counts\n\nOf a launch on 132 multiprocessors; those of other machines stand in results/roofline.\n\n\
         | row | kernel | grid | threads | sectors | passes | conflicts | mma | bytes once |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.multiprocessors.is_none_or(|count| count == 132)) {
        for launch in &row.launches {
            let [x, y, z] = launch.grid;
            let once = launch.once_bytes.map_or("–".to_owned(), |bytes| format!("{bytes:.0}"));
            let _ = writeln!(
                text,
                "| {} | `{}` | {x} × {y} × {z} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {once} |",
                row.id,
                launch.kernel,
                launch.threads,
                launch.sectors,
                launch.passes,
                launch.conflicts,
                launch.tensor_instructions
            );
        }
    }
}

fn code(text: &mut String, codes: &Codes) {
    text.push_str(
        "\n## Main loops\n\nA turn of a warp: its instructions, what it is counted by, its own cycles, and the trips to memory and to the \
         second-level cache that it waits for, one after the other.\n\n\
         | code | kernel | registers | slots | counted by | cycles | memory trips | cache trips |\n|---|---|---|---|---|---|---|---|\n",
    );
    for ((machine, kernel), code) in codes {
        let _ = write!(text, "| {machine} | `{kernel}` | {} |", code.registers);
        let _ = match code.main_loop {
            None => writeln!(text, " – | – | – | – | – |"),
            Some(of) => {
                let anchor = Anchor::ALL.iter().find(|(anchor, _)| *anchor == of.anchor).map_or("", |(_, name)| name);
                let trips = format!("{:.2} | {:.2}", of.memory_trips, of.cache_trips);
                writeln!(text, " {} | {} {anchor} | {:.0} | {trips} |", of.slots, of.anchors, of.cycles)
            }
        };
    }
}

fn machines(text: &mut String) {
    text.push_str(
        "\n## Machines\n\n\
         | machine | multiprocessors | GHz | copy TB/s | L2 TB/s | L2 MB | int8, fp16 products a cycle and multiprocessor | cuBLAS fp16 TFLOPS | load from memory, L2, cycles | sources |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for of in &MACHINES {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {}, {} | {} | {}, {} | {} |",
            of.name,
            of.multiprocessors,
            of.clock_hz / 1e9,
            of.copy / 1e12,
            of.l2 / 1e12,
            of.l2_bytes / 1e6,
            of.int8,
            of.float16,
            of.library / 1e12,
            of.memory_cycles,
            of.l2_cycles,
            of.sources,
        );
    }
    let _ = writeln!(text, "\nFor all: {COMMON_SOURCES}.");
}
