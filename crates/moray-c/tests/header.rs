//! `include/moray.h` is what cbindgen makes of the sources: `MORAY_WRITE_HEADER=1` writes it, otherwise it is compared.

use std::path::Path;

/// The sources in the order in which the header tells of them.
const SOURCES: &[&str] = &[
    "version",
    "status",
    "arguments",
    "dtype",
    "cpu",
    "format",
    "supports",
    "sections",
    "quantized",
    "import",
    "weight",
    "activations",
    "linear",
    "selection",
    "mlp",
    "mlp_parts",
    "by_input",
    "kv_pages",
    "attention",
    "cuda/device",
    "cuda/activations",
    "cuda/linear",
    "cuda/product",
    "cuda/norm",
    "cuda/selection",
    "cuda/select",
    "cuda/mlp",
    "cuda/mlp_parts",
    "cuda/by_input",
    "cuda/attention",
    "cuda/write_attend",
];

#[test]
fn header_matches_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src").join(format!("{source}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    let (made, path) = (String::from_utf8(bytes).unwrap(), root.join("include/moray.h"));
    if std::env::var_os("MORAY_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "expected the header of these sources; run with MORAY_WRITE_HEADER=1");
}

#[test]
fn every_source_with_exports_is_in_the_header() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // TVM FFI's functions have another calling convention
    for folder in [folder.clone(), folder.join("cuda")] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let is_in = SOURCES.iter().any(|source| path.ends_with(format!("{source}.rs")));
            assert!(!text.contains("no_mangle)]") || is_in, "{} is not in SOURCES", path.display());
        }
    }
}
