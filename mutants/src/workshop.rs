//! Where mutants are built and judged: a copy of relay-core beside the judge, with rustc's
//! incremental results, so that one mutant costs a second or two. relay-core has no dependencies, so
//! rustc is called without cargo.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::list::Mutant;

/// A judge that takes so much of a processor's time, in seconds, is judging a mutant that spins; more on a machine where the
/// code as it is takes more than half of it, by the clock.
const SPINS_S: u64 = 40;

/// As [`SPINS_S`], for the judge's quick checkers and for tests.
const SPINS_QUICK_S: u64 = 10;

/// A judge of the code as it is takes 3.5 GiB of address space, for the explorer's states. A mutant that grows without bound
/// must not take the machine along.
const GROWS_KIB: u64 = 8 << 20;

/// No judge waits for anything, but one that did should not be waited for.
const PATIENCE: Duration = Duration::from_secs(900);

/// What became of a mutant.
pub(crate) enum Fate {
    /// Caught, by the rule that was expected.
    Killed,
    /// Not caught at all.
    Survived,
    /// Caught, but not by what was expected to.
    Strayed(String),
    /// It could not be applied or built.
    Broken(String),
    /// It was found by a program that does not know what the compiler will accept, and does not build.
    Unviable,
}

/// Seconds of a processor that a judge may take.
#[derive(Clone, Copy)]
struct Patience {
    quick: u64,
    any: u64,
}

/// One copy of relay-core.
pub(crate) struct Workshop {
    core: PathBuf,
    folder: PathBuf,
    judge: PathBuf,
    patience: Patience,
}

impl Workshop {
    /// A fresh copy of `core` (relay-core/src) in `folder`.
    pub(crate) fn new(core: &Path, judge: &Path, folder: PathBuf) -> Result<Self, String> {
        let copy = folder.join("src");
        if copy.exists() {
            fs::remove_dir_all(&copy).map_err(|error| error.to_string())?;
        }
        copy_folder(core, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        Ok(Self {
            core: core.to_path_buf(),
            folder,
            judge: judge.to_path_buf(),
            patience: Patience { quick: 10 * SPINS_S, any: 10 * SPINS_S },
        })
    }

    /// The code as it is must pass, or nothing is shown by a mutant that does not.
    pub(crate) fn judge_as_it_is(&mut self) -> Result<(), String> {
        self.build()?;
        let quick = self.time("quick")?;
        let all = quick + self.time("slow")?;
        self.patience = Patience { quick: SPINS_QUICK_S.max(2 * quick), any: SPINS_S.max(2 * all) };
        Ok(())
    }

    /// Seconds that these checkers take for the code as it is.
    fn time(&self, checkers: &str) -> Result<u64, String> {
        let start = Instant::now();
        match self.judge(checkers)? {
            None => Ok(start.elapsed().as_secs()),
            Some(story) => Err(format!("the judge does not accept the code as it is:\n{story}")),
        }
    }

    /// What took so long there may take so long here.
    pub(crate) fn with_patience_of(mut self, other: &Self) -> Self {
        self.patience = other.patience;
        self
    }

    /// Applies, builds and judges.
    pub(crate) fn try_out(&self, mutant: &Mutant) -> Fate {
        let file = self.folder.join("src").join(&mutant.file);
        let original = match fs::read_to_string(self.core.join(&mutant.file)) {
            Ok(text) => text,
            Err(error) => return Fate::Broken(format!("{}: {error}", mutant.file)),
        };
        let fate = self.judge_mutant(mutant, &file, &original).unwrap_or_else(Fate::Broken);
        match fs::write(&file, original) {
            Ok(()) => fate,
            Err(error) => Fate::Broken(error.to_string()),
        }
    }

    fn judge_mutant(&self, mutant: &Mutant, file: &Path, original: &str) -> Result<Fate, String> {
        fs::write(file, mutant.apply(original)?).map_err(|error| error.to_string())?;
        if mutant.by.is_empty() {
            return self.judge_by_all();
        }
        self.build()?;
        Ok(match self.judge(&mutant.by)? {
            Some(story) if mutant.rule.split(" or ").any(|rule| story.contains(rule)) => Fate::Killed,
            Some(story) => Fate::Strayed(story),
            None => self.judge("")?.map_or(Fate::Survived, Fate::Strayed),
        })
    }

    fn judge_by_all(&self) -> Result<Fate, String> {
        if self.build().is_err() {
            return Ok(Fate::Unviable);
        }
        let killed = self.run("judge", "quick", self.patience.quick)?.is_some()
            || self.tests_fail()?
            || self.judge("slow")?.is_some();
        Ok(if killed { Fate::Killed } else { Fate::Survived })
    }

    /// Whether relay-core's own tests notice: the units', and those of its folder `tests` that need no
    /// other crate and are not the judge's already.
    fn tests_fail(&self) -> Result<bool, String> {
        let units = self.folder.join("src/lib.rs");
        let folder = self.core.with_file_name("tests");
        let others = ["contract", "memory", "relay", "transitions", "words"]
            .map(|name| folder.join(name).with_extension("rs"));
        let library = format!("relay_core={}", self.folder.join("librelay_core.rlib").display());
        for test in std::iter::once(&units).chain(&others) {
            let mut tests = rustc();
            tests.args(["--test", "--crate-name", "tests", "--cfg", "feature=\"testing\""]);
            if test != &units {
                tests.args(["--extern", &library]);
            }
            // Where `env!` looks for what the tests compare with.
            tests.env("CARGO_MANIFEST_DIR", self.core.with_file_name(""));
            run(tests.arg("-o").arg(self.folder.join("tests")).arg(test))?;
            if self.run("tests", "", self.patience.quick)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn build(&self) -> Result<(), String> {
        let library = self.folder.join("librelay_core.rlib");
        let mut core = self.rustc();
        core.args(["--crate-type", "rlib", "--crate-name", "relay_core", "--cfg", "feature=\"testing\""]);
        run(core.arg("-o").arg(&library).arg(self.folder.join("src/lib.rs")))?;
        let mut judge = self.rustc();
        judge.args(["--crate-name", "judge", "--extern"]).arg(format!("relay_core={}", library.display()));
        run(judge.arg("-o").arg(self.folder.join("judge")).arg(&self.judge))
    }

    fn rustc(&self) -> Command {
        let mut rustc = rustc();
        rustc.args(["-C", "opt-level=1"]);
        rustc.args(["-C", "debug-assertions=on", "-C", "overflow-checks=on"]);
        rustc.arg("-C").arg(format!("incremental={}", self.folder.join("incremental").display()));
        rustc
    }

    /// What the judge has to say against it, if anything.
    fn judge(&self, checkers: &str) -> Result<Option<String>, String> {
        self.run("judge", checkers, self.patience.any)
    }

    /// What a program that was built here says if it fails.
    fn run(&self, program: &str, arguments: &str, spins_s: u64) -> Result<Option<String>, String> {
        let output = fs::File::create(self.folder.join("story")).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let mut judge = Command::new("sh")
            .args(["-c", &format!("ulimit -t {spins_s}; ulimit -v {GROWS_KIB}; exec \"$0\" \"$@\"")])
            .arg(self.folder.join(program))
            .args(arguments.split_whitespace())
            .env("RUST_BACKTRACE", "0")
            .stdout(output)
            .stderr(errors)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let start = Instant::now();
        loop {
            if let Some(status) = judge.try_wait().map_err(|error| error.to_string())? {
                return match status.code() {
                    Some(0) => Ok(None),
                    Some(_) => self.story().map(Some),
                    None => {
                        Ok(Some(format!("no verdict ({status}; it has {spins_s} s of a processor's time)")))
                    }
                };
            }
            if start.elapsed() > PATIENCE {
                // Its end is all that is wanted; that it may have ended meanwhile is fine.
                let _ = judge.kill();
                let _ = judge.wait();
                return Ok(Some(format!("no verdict within {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn story(&self) -> Result<String, String> {
        let mut story = Vec::new();
        fs::File::open(self.folder.join("story"))
            .and_then(|file| file.take(20_000).read_to_end(&mut story))
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&story).into_owned())
    }
}

fn rustc() -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--cap-lints", "allow"]);
    rustc
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("rustc: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("it does not build:\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
