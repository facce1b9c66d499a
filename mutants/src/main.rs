//! Applies each mutant of `list/` to a copy of relay-core, and demands that its checker catches it by
//! the rule that the list names.
//!
//! `cargo run -p relay-mutants` tries all; with arguments, those whose names contain one of them.
//! `--found FILE` tries those of cargo-mutants' instead (see `found.rs`), by every checker and then by
//! relay-core's unit tests.
//! Prints `killed N of M` and every survivor's name; ends with 0 only if all were killed.
#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

mod found;
mod list;
mod workshop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use list::Mutant;
use workshop::{Fate, Workshop};

fn main() -> ExitCode {
    match try_all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}

fn try_all() -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut mutants = match wanted.first().map(String::as_str) {
        Some("--found") => {
            let file = wanted.get(1).ok_or("--found needs the file that cargo-mutants' list is in")?.clone();
            wanted.drain(..2);
            let json = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
            found::parse(&json).map_err(|error| format!("{file}: {error}"))?
        }
        _ => list::read(&root.join("list"))?,
    };
    mutants.retain(|mutant| wanted.is_empty() || wanted.iter().any(|part| mutant.name.contains(part)));
    let start = Instant::now();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(mutants.len().max(1));
    let mut first = workshop(root, 0)?;
    first.judge_as_it_is()?;
    let mut shops = vec![first];
    for number in 1..workers {
        shops.push(workshop(root, number)?.with_patience_of(&shops[0]));
    }
    std::thread::scope(|scope| {
        for shop in &shops {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fate = shop.try_out(mutant);
                    report(mutant, &fate);
                    fates
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((&mutant.name, fate));
                }
            });
        }
    });
    let fates = fates.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let killed = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Killed)).count();
    let unviable = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Unviable)).count();
    let all = mutants.len() - unviable;
    println!("killed {killed} of {all} in {} s", start.elapsed().as_secs());
    if unviable > 0 {
        println!("{unviable} more do not build");
    }
    for (name, fate) in &fates {
        match fate {
            Fate::Killed | Fate::Unviable => {}
            Fate::Survived => println!("survived: {name}"),
            Fate::Strayed(_) => println!("not caught by its own rule: {name}"),
            Fate::Broken(_) => println!("could not be tried: {name}"),
        }
    }
    Ok(killed == all)
}

fn workshop(root: &Path, number: usize) -> Result<Workshop, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("../target"), PathBuf::from);
    let folder = target.join("mutants").join(number.to_string());
    Workshop::new(&root.join("../relay-core/src"), &root.join("src/bin/judge.rs"), folder)
}

fn report(mutant: &Mutant, fate: &Fate) {
    let name = &mutant.name;
    match fate {
        Fate::Killed if mutant.by.is_empty() => println!("killed    {name}"),
        Fate::Killed => println!("killed    {name} ({} by {})", mutant.rule, mutant.by),
        Fate::Unviable => println!("unviable  {name}"),
        Fate::Survived => println!("SURVIVED  {name}"),
        Fate::Strayed(story) => {
            let end = story.char_indices().nth(600).map_or(story.len(), |(at, _)| at);
            println!(
                "STRAYED   {name}: expected was {} by {}, but:\n{}",
                mutant.rule,
                mutant.by,
                &story[..end]
            );
        }
        Fate::Broken(error) => println!("BROKEN    {name}: {error}"),
    }
}
