//! `sharklock debug collect`: what a cluster and each of its processes say of themselves, in one archive.

mod archive;
mod processes;

use std::{io, path::PathBuf};

use serde::Serialize;

use self::{
    archive::Archive,
    processes::{Process, Said},
};
use crate::{
    admin::{self, Document, WallTime},
    args::{CollectArgs, DebugCommand, Output, ReachArgs},
    doctor,
    exit::{DEGRADED, FAILED, Failure, OK, UNREACHABLE},
    render::{counted, json, print, printable, table},
    runtime,
    version::VERSION,
};

/// The file of the doctor's finding.
const DOCTOR: &str = "doctor.json";

/// `debug collect`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.DebugCollection")]
pub struct Collection {
    /// The archive.
    pub file: String,
    /// What is in it, by the names of its files.
    pub files: Vec<String>,
    /// The processes that were asked.
    pub processes: Vec<Asked>,
    /// What is missing, a sentence each; empty: nothing.
    pub missing: Vec<String>,
}

/// A process that was asked.
#[derive(Debug, Serialize)]
pub struct Asked {
    /// What people call it; empty: that is not known.
    pub node: String,
    /// Its admin port.
    pub admin_address: String,
    /// It has answered everything.
    pub answers: bool,
}

/// Obeys a command of `debug`.
pub fn run(reach: &ReachArgs, command: DebugCommand) -> Result<u8, Failure> {
    let DebugCommand::Collect(args) = command;
    let now = WallTime::now();
    let directory = format!("sharklock-debug-{}", now.compact());
    let file = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{directory}.tar.gz")));
    let collected = runtime::start(1)?.block_on(collect(reach, &args));
    // The doctor has something to say in any case.
    let is_told = |document: &Document| document.name != DOCTOR && document.text.is_ok();
    let is_answered = collected.documents.iter().any(is_told);
    if !is_answered && !collected.processes.iter().any(|(_, said)| said.answers()) {
        let failure = Failure::new(UNREACHABLE, "nobody of this cluster answers");
        return Err(collected
            .missing()
            .into_iter()
            .fold(failure, Failure::cause)
            .hint("`sharklock doctor` tries each endpoint; --admin names further admin ports"));
    }
    let unwritten = |why: io::Error| {
        Failure::new(FAILED, format!("cannot write {}", file.display()))
            .cause(why)
            .hint("choose another file with --file")
    };
    let archive = Archive::create(&file, &directory, now.unix_ms / 1_000).map_err(unwritten)?;
    let files = collected.write(archive, now).map_err(|why| {
        // Half of an archive is worth nothing.
        let _ = std::fs::remove_file(&file);
        unwritten(why)
    })?;
    let collection = collected.told(file.display().to_string(), files);
    print(&match args.output.output {
        Output::Json => json(&collection),
        Output::Table => collection.text(),
    })?;
    Ok(if collection.missing.is_empty() { OK } else { DEGRADED })
}

/// Everything that was said.
struct Collected {
    /// What the cluster says, by the names of files.
    documents: Vec<Document>,
    processes: Vec<(Process, Said)>,
}

async fn collect(reach: &ReachArgs, args: &CollectArgs) -> Collected {
    let (mut documents, status) = admin::documents(reach).await;
    let examination = doctor::examination(reach).await;
    let mut known = processes::of(status.as_ref(), &args.admin);
    known.extend(examination.admin_addresses().map(|(node, at)| Process::new(node, at)));
    documents.push(Document { name: DOCTOR, text: Ok(json(&examination)) });
    let processes = processes::ask_all(processes::once(known)).await;
    Collected { documents, processes }
}

impl Collected {
    fn missing(&self) -> Vec<String> {
        let of_cluster = self.documents.iter().filter_map(|document| {
            let why = document.text.as_ref().err()?;
            Some(format!("{}: {why}", document.name))
        });
        let of_processes = self.processes.iter().flat_map(|(process, said)| {
            said.parts.iter().filter_map(move |(part, answer)| {
                let why = answer.as_ref().err()?;
                Some(format!("{part} of {}: {why}", process.shown()))
            })
        });
        of_cluster.chain(of_processes).collect()
    }

    fn write(&self, mut archive: Archive, now: WallTime) -> io::Result<Vec<String>> {
        let mut files = vec!["README.txt".to_owned()];
        archive.add("README.txt", &self.readme(now))?;
        for document in &self.documents {
            if let Ok(text) = &document.text {
                archive.add(document.name, text)?;
                files.push(document.name.to_owned());
            }
        }
        let directories = processes::names(&self.processes);
        for ((_, said), directory) in self.processes.iter().zip(&directories) {
            for (part, answer) in &said.parts {
                if let Ok(text) = answer {
                    let name = format!("processes/{directory}/{part}");
                    archive.add(&name, text)?;
                    files.push(name);
                }
            }
        }
        archive.finish()?;
        Ok(files)
    }

    fn readme(&self, now: WallTime) -> String {
        let mut text = format!(
            "What a SharkLock cluster and its processes said of themselves at {}, by sharklock {VERSION}.\n\
             status.json has the problem first; doctor.json the likely cause; processes/ one directory\n\
             for each process whose admin port answers. log.jsonl has its last lines, at most 1 MiB;\n\
             traces.jsonl its last 1,000 spans of traced acquires.\n",
            now.rfc3339()
        );
        for missing in self.missing() {
            text += &format!("missing: {}\n", printable(&missing));
        }
        text
    }

    fn told(self, file: String, files: Vec<String>) -> Collection {
        let missing = self.missing();
        let asked = |(process, said): (Process, Said)| Asked {
            answers: said.answers(),
            node: process.node,
            admin_address: process.admin_address,
        };
        let processes = self.processes.into_iter().map(asked).collect();
        Collection { file, files, processes, missing }
    }
}

impl Collection {
    fn text(&self) -> String {
        let row = |asked: &Asked| {
            let state = if asked.answers { "collected" } else { "no answer" };
            vec![asked.node.clone(), state.to_owned(), asked.admin_address.clone()]
        };
        let rows: Vec<_> = self.processes.iter().map(row).collect();
        let mut text = table(&["NODE", "STATE", "ADMIN PORT"], &rows);
        for missing in &self.missing {
            text += &format!("missing: {}\n", printable(missing));
        }
        let files = counted(self.files.len() as u64, "file");
        text + &format!("\n{}: {files}\n", printable(&self.file))
    }
}
