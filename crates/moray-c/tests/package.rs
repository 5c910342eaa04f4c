//! What `packaging/install.sh` installs is found by pkg-config and CMake, and a program links and runs with it.

mod compiler;

use compiler::{Language, source};
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = "#include <moray.h>\nint main(void) { return moray_init(MORAY_ABI_VERSION); }\n";

const CMAKE: &str = "cmake_minimum_required(VERSION 3.16)
project(engine C)
find_package(moray 0.1 CONFIG REQUIRED)
add_executable(shared program.c)
target_link_libraries(shared PRIVATE moray::moray)
add_executable(static program.c)
target_link_libraries(static PRIVATE moray::static)
";

fn installed() -> tempfile::TempDir {
    let prefix = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install.sh");
    succeed(Command::new(script).arg(compiler::libraries()).arg(prefix.path()));
    prefix
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}{errors}", output.status);
    said.into_owned()
}

/// Whether a program can be started.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
    if !found {
        println!("skipped: no {program}");
    }
    found
}

#[test]
fn pkg_config_finds_the_shared_library_by_its_abi() {
    if !is_there("pkg-config") {
        return;
    }
    let prefix = installed();
    let ask = |arguments: &[&str]| {
        let folder = prefix.path().join("lib/pkgconfig");
        succeed(Command::new("pkg-config").args(arguments).arg("moray-c").env("PKG_CONFIG_PATH", folder))
    };
    assert_eq!(ask(&["--modversion"]).trim(), env!("CARGO_PKG_VERSION"));
    let (program, out) = (source(PROGRAM, Language::C), prefix.path().join("program"));
    succeed(
        Command::new("cc")
            .arg(program.path())
            .arg("-o")
            .arg(&out)
            .args(ask(&["--cflags", "--libs"]).split_whitespace()),
    );
    // what is linked is asked for by the name of the ABI alone
    std::fs::remove_file(prefix.path().join("lib/libmoray_c.so")).unwrap();
    succeed(Command::new(&out).env("LD_LIBRARY_PATH", prefix.path().join("lib")));
}

#[test]
fn cmake_finds_both_libraries() {
    if !is_there("cmake") {
        return;
    }
    let (prefix, project) = (installed(), tempfile::tempdir().unwrap());
    std::fs::write(project.path().join("CMakeLists.txt"), CMAKE).unwrap();
    std::fs::write(project.path().join("program.c"), PROGRAM).unwrap();
    let build = project.path().join("build");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix.path().display());
    succeed(Command::new("cmake").arg("-S").arg(project.path()).arg("-B").arg(&build).arg(prefix_path));
    succeed(Command::new("cmake").arg("--build").arg(&build));
    succeed(&mut Command::new(build.join("shared")));
    succeed(&mut Command::new(build.join("static")));
}

#[test]
fn versions_of_the_package_match_the_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let cmake = format!("set(PACKAGE_VERSION \"{}\")", env!("CARGO_PKG_VERSION"));
    assert!(read("packaging/moray-config-version.cmake").contains(&cmake));
    assert!(read("build.rs").contains(&format!("const ABI_VERSION: u32 = {};", moray_c::MORAY_ABI_VERSION)));
}
