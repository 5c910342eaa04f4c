//! `cargo xtask overhead`: what a call of the smallest shape costs through each door, into `results/overhead.md`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, thread};

use crate::{TaskResult, hub_kernel, root, simcuda};

const FILE: &str = "results/overhead.md";

/// What is called, in the order of the table, and what of it that is.
const OPERATIONS: [(&str, &str); 9] = [
    ("query", "a question about sizes"),
    ("refusal", "a call without arguments"),
    ("quantize", "1 token of 32 features to int8"),
    ("linear", "1 token by 16 × 32 weights in 4 bits, x in int8"),
    ("linear_of_floats", "the same, x in f32 and quantized in the call"),
    ("by_input", "1 token by 16 × 32 weights in f32, above a threshold"),
    ("sparse_mlp", "1 token, d_model 32, 16 neurons in f32"),
    ("write_kv", "1 token, 1 head of 8 in f16"),
    ("attend", "1 token, 1 head of 8, 1 position"),
];

/// One measured call.
struct Row {
    door: String,
    operation: String,
    call: String,
    nanoseconds: f64,
}

/// Measures the doors and writes the table: `--python FILE` names an interpreter that has the wheel, and perhaps torch, TVM FFI and what
/// `cargo xtask hub-kernel` has written; `--candle` compiles candle, which takes minutes.
pub fn run(arguments: &[String]) -> TaskResult {
    let (mut python, mut candle) = (None, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--python" => python = Some(rest.next().ok_or("overhead: expected an interpreter after --python")?),
            "--candle" => candle = true,
            other => return Err(format!("overhead: expected --python FILE or --candle, got {other}").into()),
        }
    }
    let mut rows = Vec::new();
    read("Rust", cargo(".", &["--package", "moray", "--example", "overhead"]), &mut rows)?;
    in_c(&mut rows)?;
    match python {
        Some(python) => {
            let mut command = Command::new(python);
            command.arg(root().join("python/examples/overhead.py"));
            command.env("MORAY_HUB_KERNEL", simcuda::target_folder().join("hub-kernel"));
            read("Python", command, &mut rows)?;
        }
        None => println!("left out: Python; --python names an interpreter that has the wheel"),
    }
    if candle {
        read("candle", cargo("crates/moray-candle", &["--locked", "--example", "overhead"]), &mut rows)?;
    } else {
        println!("left out: candle; --candle compiles it");
    }
    fs::write(root().join(FILE), table(&rows))?;
    println!("{FILE}: {} calls", rows.len());
    Ok(())
}

/// Compiles the programs in C and C++ with the machine's compiler, and runs them.
fn in_c(rows: &mut Vec<Row>) -> TaskResult {
    let library = hub_kernel::library()?;
    let (folder, source) = (simcuda::target_folder().join("overhead"), root().join("crates/moray-c"));
    fs::create_dir_all(&folder)?;
    // the name by which programs look for it
    fs::copy(&library, folder.join("libmoray_c.so.1"))?;
    for (door, compiler, file) in [("C", "cc", "overhead.c"), ("C++", "c++", "overhead_cpp.cc")] {
        let program = folder.join(Path::new(file).with_extension("out"));
        let mut compile = Command::new(compiler);
        compile.arg("-O2").arg(source.join("examples").join(file)).arg("-I").arg(source.join("include"));
        compile.arg(&library).arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o");
        succeed(compile.arg(&program))?;
        read(door, Command::new(program), rows)?;
    }
    Ok(())
}

fn cargo(package: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--release"]).args(arguments).current_dir(root().join(package));
    if package != "." {
        command.env("CARGO_TARGET_DIR", simcuda::target_folder().join("engines"));
    }
    command
}

/// Reads the lines `operation | call | number ns` that a program prints; `operation | door: call | number ns` names the door.
fn read(door: &str, mut program: Command, rows: &mut Vec<Row>) -> TaskResult {
    let output = program.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("expected {program:?} to succeed, got {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let before = rows.len();
    for line in text.lines() {
        match line.split(" | ").collect::<Vec<_>>()[..] {
            [operation, call, number] if number.ends_with(" ns") => {
                let nanoseconds = number.trim_end_matches(" ns").trim().parse()?;
                let (door, call) = call.split_once(": ").unwrap_or((door, call));
                let (door, operation, call) = (door.to_owned(), operation.to_owned(), call.to_owned());
                rows.push(Row { door, operation, call, nanoseconds });
            }
            _ => println!("{door}: {line}"),
        }
    }
    match rows.len() > before {
        true => Ok(()),
        false => Err(format!("expected lines of measurements from {program:?}, got {text:?}").into()),
    }
}

/// The page.
fn table(rows: &[Row]) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")));
    let processor = named.map_or("an unnamed processor", |(_, name)| name);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "# What a call costs

Written by `cargo xtask overhead`. Calls of the smallest shapes, of which next to nothing is work, on one thread: the fastest of 7 rounds, in ns, on
{processor} ({cores} cores, {}). What a door adds is the difference from Rust's row.
",
        std::env::consts::OS
    );
    for (operation, what) in OPERATIONS {
        let mut of = rows.iter().filter(|row| row.operation == operation).peekable();
        if of.peek().is_none() {
            continue;
        }
        text += &format!("\n## {}\n{what}\n\n| door | call | ns |\n|---|---|---:|\n", operation.replace('_', " "));
        for Row { door, call, nanoseconds, .. } in of {
            text += &format!("| {door} | {call} | {nanoseconds:.0} |\n");
        }
    }
    text
}

fn succeed(command: &mut Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected {command:?} to succeed, got {status}").into()),
    }
}
