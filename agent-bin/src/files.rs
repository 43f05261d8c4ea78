//! Object files: YAML or JSON, several documents, directories, standard input.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use agent_api_model::ObjectSpec;
use agent_bin_daemon::document::{MAX_FILE_BYTES, Node, Problem};
use agent_bin_daemon::keys::unknown_keys;
use serde_json::Value;

/// The most problems that are told at once.
const MAX_PROBLEMS: usize = 20;

/// One object and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct FileObject {
    /// The object.
    pub(crate) spec: ObjectSpec,
    place: Place,
    node: Node,
}

/// A document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: String,
    document: usize,
    documents: usize,
}

/// What is wrong with object files: nothing of them is used.
#[derive(Debug)]
pub(crate) struct FileErrors(Vec<String>);

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(MAX_PROBLEMS).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(problem)?;
        }
        if self.0.len() > MAX_PROBLEMS {
            write!(f, "\n… and {} more", self.0.len() - MAX_PROBLEMS)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileErrors {}

impl FileObject {
    /// A sentence about a field of this object, with file, document and line.
    pub(crate) fn locate(&self, path: &str, message: &str) -> String {
        let problem = Problem {
            line: self.node.line_of(path),
            path: path.into(),
            message: message.into(),
        };
        self.place.locate(&problem, Some(self.spec.name.as_str()))
    }
}

impl Place {
    fn locate(&self, problem: &Problem, object: Option<&str>) -> String {
        let mut text = self.file.clone();
        if problem.line != 0 {
            text += &format!(":{}", problem.line);
        }
        if self.documents > 1 {
            text += &format!(": document {}", self.document);
        }
        if let Some(object) = object {
            text += &format!(": {object}");
        }
        if !problem.path.is_empty() {
            text += &format!(": {}", problem.path);
        }
        format!("{text}: {}", problem.message)
    }
}

/// Reads all objects of files, directories (not their subdirectories) and `-`, in order.
///
/// All that is wrong is told at once; names that occur twice are an error too.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<FileObject>, FileErrors> {
    let schema = schemars::schema_for!(ObjectSpec).to_value();
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        match texts(path) {
            Ok(texts) => {
                for (file, text) in texts {
                    parse(&schema, &file, &text, &mut objects, &mut errors);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    let mut seen: HashMap<String, String> = HashMap::new();
    for object in &objects {
        let here = object.locate("name", "is used twice");
        if let Some(first) = seen.insert(object.spec.name.to_string(), here.clone()) {
            let first = first.split(": ").next().unwrap_or_default().to_owned();
            errors.push(format!("{here}; first in {first}"));
        }
    }
    if let Some(ring) = ring(&objects) {
        errors.push(ring);
    }
    if errors.is_empty() && objects.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        errors.push(format!("{}: no objects in it", names.join(", ")));
    }
    if errors.is_empty() {
        Ok(objects)
    } else {
        Err(FileErrors(errors))
    }
}

/// A ring of dependencies among these objects, where there is one: the agent would take the first of them and refuse
/// the last.
fn ring(objects: &[FileObject]) -> Option<String> {
    let by_name: HashMap<&str, &FileObject> = objects
        .iter()
        .map(|object| (object.spec.name.as_str(), object))
        .collect();
    // What is left after taking away, again and again, what waits for nothing that is left.
    let mut waits: HashMap<&str, usize> = HashMap::new();
    let mut waiters: HashMap<&str, Vec<&str>> = HashMap::new();
    for object in by_name.values() {
        let name = object.spec.name.as_str();
        let mut count = 0;
        for dependency in &object.spec.depends_on {
            if by_name.contains_key(dependency.name.as_str()) {
                count += 1;
                waiters.entry(dependency.name.as_str()).or_default().push(name);
            }
        }
        waits.insert(name, count);
    }
    let mut free: Vec<&str> = waits
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(name, _)| *name)
        .collect();
    while let Some(name) = free.pop() {
        waits.remove(name);
        for waiter in waiters.get(name).into_iter().flatten() {
            if let Some(count) = waits.get_mut(waiter) {
                *count -= 1;
                if *count == 0 {
                    free.push(waiter);
                }
            }
        }
    }
    // Each of those left waits for one that is left: following them leads round.
    let mut path: Vec<&str> = vec![*waits.keys().min()?];
    loop {
        let object = by_name.get(path.last()?)?;
        let next = object
            .spec
            .depends_on
            .iter()
            .map(|dependency| dependency.name.as_str());
        let next = next.into_iter().find(|name| waits.contains_key(name))?;
        if let Some(start) = path.iter().position(|name| *name == next) {
            path.push(next);
            let round = path[start..].join(" -> ");
            return Some(
                by_name
                    .get(next)?
                    .locate("depends_on", &format!("goes round: {round}")),
            );
        }
        path.push(next);
    }
}

/// The texts of a path with their names.
fn texts(path: &Path) -> Result<Vec<(String, String)>, String> {
    let name = path.display().to_string();
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| format!("standard input: cannot read: {error}"))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("standard input: more than {MAX_FILE_BYTES} bytes"));
        }
        return Ok(vec![("standard input".into(), text)]);
    }
    let metadata = std::fs::metadata(path).map_err(|error| format!("{name}: cannot read: {error}"))?;
    if !metadata.is_dir() {
        return Ok(vec![(name, text_of(path)?)]);
    }
    let mut files = Vec::new();
    let entries = std::fs::read_dir(path).map_err(|error| format!("{name}: cannot read: {error}"))?;
    for entry in entries {
        let file = entry
            .map_err(|error| format!("{name}: cannot read: {error}"))?
            .path();
        let ours = file
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if ours && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(format!("{name}: no .yaml, .yml or .json file in this directory"));
    }
    files.sort();
    files
        .into_iter()
        .map(|file| Ok((file.display().to_string(), text_of(&file)?)))
        .collect()
}

fn text_of(path: &Path) -> Result<String, String> {
    let name = path.display();
    let fail = |error: std::io::Error| format!("{name}: cannot read: {error}");
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(fail)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "{name}: more than {MAX_FILE_BYTES} bytes; split the file"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        format!(
            "{name}: not UTF-8 after byte {}",
            error.utf8_error().valid_up_to()
        )
    })
}

fn parse(schema: &Value, file: &str, text: &str, objects: &mut Vec<FileObject>, errors: &mut Vec<String>) {
    let nodes = match Node::parse_all(text) {
        Ok(nodes) => nodes,
        Err(problem) => {
            let place = Place {
                file: file.into(),
                document: 1,
                documents: 1,
            };
            errors.push(place.locate(&problem, None));
            return;
        }
    };
    // A JSON file may hold one list of objects.
    let nodes: Vec<Node> = nodes.into_iter().flat_map(Node::into_items).collect();
    let documents = nodes.len();
    for (i, node) in nodes.into_iter().enumerate() {
        let place = Place {
            file: file.into(),
            document: i + 1,
            documents,
        };
        let value = node.to_value();
        let name = value
            .get("name")
            .and_then(Value::as_str)
            .map(|name| name.chars().take(63).collect::<String>());
        let unknown: Vec<_> = unknown_keys(schema, &value)
            .into_iter()
            .map(|key| Problem {
                line: node.line_of(&key.path),
                message: key.sentence(),
                path: key.path,
            })
            .collect();
        if !unknown.is_empty() {
            errors.extend(
                unknown
                    .iter()
                    .map(|problem| place.locate(problem, name.as_deref())),
            );
            continue;
        }
        let checked = node.read::<ObjectSpec>().and_then(|spec| match spec.check() {
            Ok(()) => Ok(spec),
            Err(error) => {
                let path = error.path().unwrap_or_default().to_owned();
                Err(Problem {
                    line: node.line_of(&path),
                    path,
                    message: error.message().to_owned(),
                })
            }
        });
        match checked {
            Ok(spec) => objects.push(FileObject { spec, place, node }),
            Err(problem) => {
                errors.push(place.locate(&problem, name.as_deref().filter(|_| problem.path != "name")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.yaml");
        std::fs::write(&path, text).unwrap();
        match read(&[path]) {
            Ok(objects) => {
                let names: Vec<_> = objects
                    .iter()
                    .map(|object| object.spec.name.to_string())
                    .collect();
                format!("fine: {}", names.join(" "))
            }
            Err(errors) => errors
                .to_string()
                .replace(&format!("{}/", dir.path().display()), ""),
        }
    }

    #[test]
    fn says_file_document_line_and_field() {
        let cases = [
            (
                "one object",
                "kind: process\nname: a\nspec: {command: [sleep, '1']}\n",
            ),
            (
                "two documents",
                "kind: process\nname: a\n---\n{\"kind\": \"process\", \"name\": \"b\"}\n",
            ),
            (
                "a JSON list",
                "[{\"kind\": \"process\", \"name\": \"a\"}, {\"kind\": \"process\", \"name\": \"b\"}]",
            ),
            ("an unknown field", "kind: process\nname: a\nlables: {x: y}\n"),
            (
                "an unknown field below",
                "kind: process\nname: a\n---\nkind: process\nname: b\nhealth:\n  tcp: localhost:1\n  intervall: 1s\n",
            ),
            ("a wrong type", "kind: process\nname: a\ndepends_on: b\n"),
            (
                "a wrong amount",
                "kind: process\nname: a\nresources:\n  memory: lots\n",
            ),
            (
                "a wrong duration",
                "kind: process\nname: a\nhealth:\n  tcp: localhost:1\n  interval: 10\n",
            ),
            ("a wrong restart", "kind: process\nname: a\nrestart: sometimes\n"),
            ("an odd name", "kind: process\nname: ../etc\n"),
            ("no name", "kind: process\n"),
            ("no kind", "name: a\n"),
            ("not a map", "just text\n"),
            ("not YAML", "kind: [process\nname: a\n"),
            ("a key twice", "kind: process\nname: a\nname: b\n"),
            (
                "a name twice",
                "kind: process\nname: a\n---\nkind: process\nname: a\n",
            ),
            (
                "depends on itself",
                "kind: process\nname: a\ndepends_on: [{name: a}]\n",
            ),
            (
                "a ring",
                "kind: process\nname: c\ndepends_on: [{name: a}]\n---\nkind: process\nname: a\ndepends_on: [{name: out}, {name: b}]\n---\n\
                 kind: process\nname: b\ndepends_on: [{name: a}]\n",
            ),
            ("spec a list", "kind: process\nname: a\nspec: [1]\n"),
            ("nothing", "# only a comment\n"),
            ("a control character", "kind: process\nname: \"a\\e[2J\"\n"),
            (
                "two problems",
                "kind: process\nname: a\nlables: {}\n---\nkind: process\nnmae: b\n",
            ),
        ];
        let told: Vec<_> = cases
            .iter()
            .map(|(name, text)| format!("{name}:\n  {}", told(text).replace('\n', "\n  ")))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn reads_directories_in_order_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let empty = read(&[dir.path().into()]).unwrap_err().to_string();
        assert!(empty.contains("no .yaml, .yml or .json file"), "{empty}");
        for (file, name) in [("b.yaml", "b"), ("a.yml", "a"), ("c.json", "c"), ("d.txt", "d")] {
            std::fs::write(
                dir.path().join(file),
                format!("{{\"kind\": \"process\", \"name\": \"{name}\"}}"),
            )
            .unwrap();
        }
        let objects = read(&[dir.path().into()]).unwrap();
        let names: Vec<_> = objects.iter().map(|object| object.spec.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let missing = read(&[dir.path().join("nope.yaml")]).unwrap_err().to_string();
        assert!(missing.contains("nope.yaml: cannot read"), "{missing}");
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.yaml");
        std::fs::write(&path, "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1)).unwrap();
        let error = read(&[path]).unwrap_err().to_string();
        assert!(error.contains("split the file"), "{error}");
    }

    #[test]
    fn later_problems_have_a_place_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.yaml");
        std::fs::write(&path, "kind: process\nname: a\nspec:\n  command:\n    - /nope\n").unwrap();
        let objects = read(std::slice::from_ref(&path)).unwrap();
        assert_eq!(
            objects[0].locate("spec.command[0]", "is not there"),
            format!("{}:5: a: spec.command[0]: is not there", path.display())
        );
    }
}
