//! `cargo xtask api`: the public items of the library as its documentation has them, in one file that shows what a change does to callers.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::{TaskResult, root, simcuda};

const FILE: &str = "docs/api.txt";

/// Documents the workspace as `.ci/run` does and writes the list; `--check` compares it instead.
pub fn run(arguments: &[String]) -> TaskResult {
    let check = match arguments {
        [] => false,
        [only] if only == "--check" => true,
        _ => return Err(format!("api: expected --check or nothing, got {}", arguments.join(" ")).into()),
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["doc", "--workspace", "--no-deps", "--all-features", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    let status = cargo.current_dir(root()).status()?;
    if !status.success() {
        return Err(format!("expected cargo doc to succeed, got {status}").into());
    }
    let folder = simcuda::target_folder().join("doc/moray");
    let mut text = String::from(
        "The public items of moray, with all features. Written by `cargo xtask api`; a line that goes or changes is one that callers may have.\n",
    );
    for page in pages(&fs::read_to_string(folder.join("all.html"))?) {
        let path = page.trim_end_matches(".html").replace('/', "::");
        let (modules, kind_and_name) = path.rsplit_once("::").map_or(("", &path[..]), |(m, rest)| (m, rest));
        let name = kind_and_name.split_once('.').map_or(kind_and_name, |(_, name)| name);
        let modules = if modules.is_empty() { String::new() } else { format!("{modules}::") };
        write!(text, "\nmoray::{modules}{name}\n{}", item(&fs::read_to_string(folder.join(&page))?)?)?;
    }
    let file = root().join(FILE);
    if !check {
        fs::write(&file, &text)?;
        println!("{FILE}: {} lines", text.lines().count());
        return Ok(());
    }
    let committed = fs::read_to_string(&file)?;
    match (1..).zip(committed.lines().chain([""])).zip(text.lines().chain([""])).find(|((_, a), b)| a != b) {
        None => Ok(()),
        Some(((number, committed), got)) => Err(format!(
            "{FILE}:{number}: expected {got:?}, got {committed:?}: the public items have changed, which `cargo xtask api` writes down and \
             CHANGELOG.md tells callers"
        )
        .into()),
    }
}

/// The pages of all items.
fn pages(all: &str) -> Vec<String> {
    let list = all.split("class=\"all-items\"").skip(1);
    let mut pages: Vec<String> = list
        .flat_map(|list| list.split("</ul>").next().unwrap_or("").split("href=\"").skip(1))
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect();
    pages.sort();
    pages
}

/// An item's declaration, its own methods and the traits that it has.
fn item(page: &str) -> Result<String, Box<dyn std::error::Error>> {
    let between = |text: &'static str, end: &'static str| {
        move |s: &str| -> Option<(String, usize)> {
            let start = s.find(text)? + text.len();
            let length = s[start..].find(end)?;
            Some((words(&s[start..start + length]), start + length))
        }
    };
    let (declaration, _) =
        between("<pre class=\"rust item-decl\">", "</pre>")(page).ok_or("expected a declaration, got none")?;
    let mut text = String::new();
    for line in declaration.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(text, "    {}", line.trim_end())?;
    }
    let section = |id: &str| page.find(&format!("id=\"{id}\""));
    let own = section("implementations-list");
    let traits = section("trait-implementations-list");
    let synthetic = section("synthetic-implementations").unwrap_or(page.len());
    if let Some(own) = own {
        let end = [section("trait-implementations"), page.find("id=\"deref-methods")].into_iter().flatten().min();
        let mut rest = &page[own..end.unwrap_or(synthetic)];
        // methods, associated constants and types
        while let Some((method, end)) = between("<h4 class=\"code-header\">", "</h4>")(rest) {
            writeln!(text, "    {}", one_line(&method))?;
            rest = &rest[end..];
        }
    }
    if let Some(traits) = traits {
        let mut rest = &page[traits..synthetic.max(traits)];
        while let Some((header, end)) = between("<h3 class=\"code-header\">", "</h3>")(rest) {
            writeln!(text, "    {}", one_line(&header))?;
            rest = &rest[end..];
        }
    }
    Ok(text)
}

/// The text of a piece of a page.
fn words(html: &str) -> String {
    let mut text = String::new();
    for part in html.split('<') {
        let (tag, after) = part.split_once('>').unwrap_or(("", part));
        if ["br", "div", "/div"].iter().any(|name| tag.starts_with(name)) {
            text.push(' ');
        }
        text += after;
    }
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    entities.iter().fold(text, |text, (entity, character)| text.replace(entity, character))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_of_every_list() {
        let all = r#"<ul class="block"><li><a href="x.html">x</a></ul><h3>Structs</h3><ul class="all-items"><li><a href="struct.S.html">S</a></li></ul>
            <ul class="all-items"><li><a href="sub/fn.f.html">f</a></li><li><a href="enum.E.html">E</a></li></ul>"#;
        assert_eq!(pages(all), ["enum.E.html", "struct.S.html", "sub/fn.f.html"]);
    }

    #[test]
    fn an_item_is_its_declaration_its_methods_and_its_traits() {
        let page = r##"<pre class="rust item-decl"><code>pub struct <a>S</a>&lt;'a&gt; {
    pub f: &amp;'a [<a class="primitive">u8</a>],
    <span class="comment">/* private fields */</span>
}</code></pre><div id="implementations-list"><h3 class="code-header">impl S</h3><h4 class="code-header">pub fn <a>new</a>()
 -&gt; Self<div class="where">where Self: Sized</div></h4></div><h2 id="trait-implementations">Traits</h2><div id="trait-implementations-list">
<h3 class="code-header">impl <a>Clone</a> for S</h3><h4 class="code-header">fn clone(&amp;self)</h4></div><h2 id="synthetic-implementations">Auto</h2>
<h3 class="code-header">impl Send for S</h3>"##;
        let expected = "    pub struct S<'a> {\n        pub f: &'a [u8],\n        /* private fields */\n    }\n    \
                        pub fn new() -> Self where Self: Sized\n    impl Clone for S\n";
        assert_eq!(item(page).unwrap(), expected);
        assert!(item("<h1>nothing</h1>").is_err());
    }
}
