//! Applies each mutant of `list/` to a copy of relay-core, and demands that its checker catches it by
//! the rule that the list names.
//!
//! `cargo run -p relay-mutants` tries all; with arguments, those whose names contain one of them.
//! Prints `killed N of M` and every survivor's name; ends with 0 only if all were killed.
#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

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
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut mutants = list::read(&root.join("list"))?;
    mutants.retain(|mutant| wanted.is_empty() || wanted.iter().any(|part| mutant.name.contains(part)));
    let start = Instant::now();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(mutants.len().max(1));
    let first = workshop(root, 0)?;
    first.judge_as_it_is()?;
    let mut shops = vec![first];
    for number in 1..workers {
        shops.push(workshop(root, number)?);
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
    println!("killed {killed} of {} in {} s", mutants.len(), start.elapsed().as_secs());
    for (name, fate) in &fates {
        match fate {
            Fate::Killed => {}
            Fate::Survived => println!("survived: {name}"),
            Fate::Strayed(_) => println!("not caught by its own rule: {name}"),
            Fate::Broken(_) => println!("could not be tried: {name}"),
        }
    }
    Ok(killed == mutants.len())
}

fn workshop(root: &Path, number: usize) -> Result<Workshop, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("../target"), PathBuf::from);
    let folder = target.join("mutants").join(number.to_string());
    Workshop::new(&root.join("../relay-core/src"), &root.join("src/bin/judge.rs"), folder)
}

fn report(mutant: &Mutant, fate: &Fate) {
    let name = &mutant.name;
    match fate {
        Fate::Killed => println!("killed    {name} ({} by {})", mutant.rule, mutant.by),
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
