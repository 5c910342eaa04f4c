//! `cargo xtask dependencies`: every dependency has a permissive licence and comes from the registry.

use std::process::Command;

use serde_json::Value;

use crate::{TaskResult, root};

/// Licences that any user of the library can live with. A crate's expression must offer one of them for each of its parts.
const LICENCES: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "MPL-2.0",
    "NCSA",
];

/// Crates that must not come in: they break the build of users without a CUDA toolkit or libclang.
const BANNED: [&str; 3] = ["cust", "bindgen", "openssl-sys"];

/// The workspace and those beside it, and what must not come into each.
const MANIFESTS: [(&str, &[&str]); 4] = [
    ("Cargo.toml", &BANNED),
    ("crates/moray-candle/Cargo.toml", &BANNED),
    ("examples/engines/Cargo.toml", &[]),
    ("fuzz/Cargo.toml", &BANNED),
];

/// Runs the task.
pub fn run(_arguments: &[String]) -> TaskResult {
    MANIFESTS.iter().try_for_each(|(manifest, banned)| check(manifest, banned))
}

fn check(manifest: &str, banned: &[&str]) -> TaskResult {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("expected packages from cargo metadata, got none")?;
    let faults: Vec<String> = packages.iter().filter_map(|package| fault(package, banned)).collect();
    if faults.is_empty() {
        println!("{manifest}: {} packages, licences and sources are in order", packages.len());
        return Ok(());
    }
    Err(format!("{manifest}: {} of {} packages break the policy:\n{}", faults.len(), packages.len(), faults.join("\n"))
        .into())
}

fn fault(package: &Value, banned: &[&str]) -> Option<String> {
    let name = package["name"].as_str().unwrap_or_default();
    if banned.contains(&name) {
        return Some(format!("{name}: expected none of {}", banned.join(", ")));
    }
    match package["source"].as_str() {
        None => {} // of this workspace
        Some(source) if source.starts_with("registry+") => {}
        Some(source) => return Some(format!("{name}: expected a registry as source, got {source}")),
    }
    let licence = package["license"].as_str().unwrap_or_default();
    (!permitted(licence)).then(|| format!("{name}: expected a permissive licence, got {licence:?}"))
}

/// Evaluates a licence expression of names, AND, OR (or /) and parentheses.
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "+WITH+");
    let mut tokens = spaced.split_whitespace().map(|token| token.replace("+WITH+", " WITH ")).peekable();
    any(&mut tokens) == Some(true) && tokens.peek().is_none()
}

/// The value of a chain of ORs; none where a name or a parenthesis is missing.
fn any<I: Iterator<Item = String>>(tokens: &mut std::iter::Peekable<I>) -> Option<bool> {
    let mut allowed = all(tokens)?;
    while tokens.next_if(|token| token == "OR").is_some() {
        allowed |= all(tokens)?;
    }
    Some(allowed)
}

fn all<I: Iterator<Item = String>>(tokens: &mut std::iter::Peekable<I>) -> Option<bool> {
    let mut allowed = one(tokens)?;
    while tokens.next_if(|token| token == "AND").is_some() {
        allowed &= one(tokens)?;
    }
    Some(allowed)
}

fn one<I: Iterator<Item = String>>(tokens: &mut std::iter::Peekable<I>) -> Option<bool> {
    let name = tokens.next()?;
    if name != "(" {
        return Some(LICENCES.contains(&name.as_str()));
    }
    let allowed = any(tokens)?;
    tokens.next_if(|token| token == ")").map(|_| allowed)
}

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn expressions_match_their_meaning() {
        for good in
            ["MIT", "MIT OR GPL-3.0", "GPL-2.0/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "MIT AND ISC"]
        {
            assert!(permitted(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT OR", "MIT OR AND ISC", "AGPL-3.0-only"] {
            assert!(!permitted(bad), "{bad}");
        }
        assert!(permitted("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    }
}
