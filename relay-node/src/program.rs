//! A node program from its command line to its exit code.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use log::LevelFilter;

use crate::bandwidth::Rates;
use crate::check;
use crate::cli::{self, Action, Early, Node, Serving, TlsFiles};
use crate::control::{self, Controller};
use crate::demo;
use crate::descriptors;
use crate::endpoint::Endpoint;
use crate::herald::Herald;
use crate::inherited::Inherited;
use crate::log_queue;
use crate::logging::{self, complain, say};
use crate::metrics::Metrics;
use crate::node;
use crate::observer::LogObserver;
use crate::opening::{self, Failed, Opening};
use crate::sandbox::{Needs, Sandbox};
use crate::secrets;
use crate::server::{self, Runtime, Served, Server};
use crate::service;
use crate::sessions::SessionTable;
use crate::signals::{self, Reload};
use crate::status;
use crate::tls::Tls;
use crate::uri;
use crate::watch::Watch;

/// Exit codes, part of the command line's contract.
const FAILED: u8 = 1;
const MISUSED: u8 = 2;
const CUT: u8 = 3;

/// Runs a node program named `name` on `runtime`, as the command line says.
///
/// Exit codes: 0 done or drained, 1 failed (or sessions aborted by a second signal), 2 bad usage,
/// 3 the drain's deadline passed with sessions cut.
pub fn main(runtime: &impl Runtime, name: &'static str) -> ExitCode {
    // First of all: it takes variables out of the environment, and threads might be reading that.
    let inherited = Inherited::from_env();
    let done = match cli::parse(name, env::args_os()) {
        Ok(action) => run(runtime, name, action, inherited),
        Err(Early::Told(text)) => {
            say(text.trim_end());
            logging::all_said().map(|()| Served::default()).map_err(Failed)
        }
        Err(Early::Misused(line)) => {
            complain(&format!("{name}: {line}"));
            return ExitCode::from(MISUSED);
        }
    };
    log_queue::finish();
    match done {
        Ok(served) => exit_code(served),
        Err(Failed(line)) => {
            complain(&format!("{name}: {line}"));
            ExitCode::from(FAILED)
        }
    }
}

fn exit_code(served: Served) -> ExitCode {
    match served {
        Served { cut_by_deadline: 1.., .. } => ExitCode::from(CUT),
        Served { aborted: 1.., .. } => ExitCode::from(FAILED),
        Served { .. } => ExitCode::SUCCESS,
    }
}

fn run(
    runtime: &impl Runtime,
    name: &'static str,
    action: Action,
    inherited: Inherited,
) -> Result<Served, Failed> {
    let printed = match action {
        Action::Forward(asked) => {
            let sandbox = Sandbox::wished(&asked.serving, || Needs::of_forward(&asked));
            let how =
                How { program: name, serving: &asked.serving, metrics: asked.metrics.as_ref(), sandbox };
            return serve(runtime, how, asked.tls.as_ref(), inherited, |tls, inherited| {
                opening::forward(&asked, tls, inherited)
            });
        }
        Action::Source(asked) => {
            let sandbox = Sandbox::wished(&asked.serving, || Needs::of_source(&asked));
            let how =
                How { program: name, serving: &asked.serving, metrics: asked.metrics.as_ref(), sandbox };
            return serve(runtime, how, asked.tls.as_ref(), inherited, |tls, _| opening::source(&asked, tls));
        }
        Action::Target(asked) => {
            let sandbox = Sandbox::wished(&asked.serving, || Needs::of_target(&asked));
            let how =
                How { program: name, serving: &asked.serving, metrics: asked.metrics.as_ref(), sandbox };
            return serve(runtime, how, asked.tls.as_ref(), inherited, |tls, _| opening::target(&asked, tls));
        }
        Action::Node(asked) => return serve_node(runtime, name, &asked, inherited),
        Action::Demo(asked) => {
            let sandbox = Sandbox::enter(&Needs::of_demo());
            logging::start(asked.log_format, LevelFilter::Error);
            sandbox.tell();
            demo::run(runtime, &asked).map_err(|e| Failed::at("the demo failed", e))?;
            logging::all_said().map_err(Failed)?;
            return Ok(Served::default());
        }
        Action::Status(asked) => {
            status::run(&asked).map_err(Failed)?;
            logging::all_said().map_err(Failed)?;
            return Ok(Served::default());
        }
        Action::Check(asked) => {
            logging::start(logging::Format::Text, LevelFilter::Warn);
            check::run(&asked).map_err(Failed)?;
            logging::all_said().map_err(Failed)?;
            return Ok(Served::default());
        }
        Action::Uri(asked) => uri::run(&asked).map_err(Failed)?,
        Action::Completions(shell) => cli::completions(name, shell),
        Action::Man => cli::man(name),
    };
    say(printed.trim_end());
    logging::all_said().map_err(Failed)?;
    Ok(Served::default())
}

/// What every command that relays is told.
struct How<'a> {
    program: &'static str,
    serving: &'a Serving,
    metrics: Option<&'a Endpoint>,
    sandbox: Sandbox,
}

/// Opens what is to be open, says so, and relays until told to stop.
fn serve(
    runtime: &impl Runtime,
    How { program, serving, metrics: at, sandbox }: How<'_>,
    files: Option<&TlsFiles>,
    mut inherited: Inherited,
    open: impl FnOnce(Option<&Arc<Tls>>, &mut Inherited) -> Result<Opening, Failed>,
) -> Result<Served, Failed> {
    let tls = begin(&sandbox, serving, files)?;
    let (controller, commands) =
        control::channel().map_err(|e| Failed::at("could not make a socket pair", e))?;
    let herald = Herald::new(&controller, service::ready);
    if let Some(tls) = &tls {
        tls.enforce(controller.clone()).map_err(|e| Failed::at("could not start a thread", e))?;
    }
    // Before anybody can connect: whoever sees us listening may stop us in good order.
    listen_for_signals(controller, tls.clone())?;
    let Opening { routes, answer } = open(tls.as_ref(), &mut inherited)?;
    let sessions = SessionTable::new();
    let metrics = Arc::new(Metrics::new(program, Arc::clone(&sessions), tls));
    let _scrapes = opening::begin_metrics(at, &metrics, &mut inherited)?;
    inherited.tell_left();
    let listening = routes.iter().map(|route| format!("listening {}", route.listener.local()));
    herald.announce(listening.chain(answer).collect());
    sandbox.tell();
    sessions.bandwidth().set(Rates { process: serving.bandwidth, ..Rates::default() });
    let server = Server {
        limits: descriptors::limits(serving.max_sessions),
        routes: server::numbered(routes),
        sessions,
        threads: serving.threads,
        drain_timeout: serving.timeouts.drain,
        observer: Arc::new(LogObserver),
        commands,
    };
    let served = runtime.serve(server).map_err(|e| Failed(e.to_string()))?;
    stopped(served);
    Ok(served)
}

/// The daemon.
fn serve_node(
    runtime: &impl Runtime,
    program: &'static str,
    asked: &Node,
    inherited: Inherited,
) -> Result<Served, Failed> {
    let sandbox = Sandbox::wished(&asked.serving, || Needs::of_node(asked));
    let tls = begin(&sandbox, &asked.serving, asked.tls.as_ref())?;
    let signals = |wishes| listen_for_signals(wishes, tls.clone());
    let served = node::run(runtime, program, asked, &sandbox, tls.as_ref(), inherited, signals)?;
    stopped(served);
    Ok(served)
}

/// Begins to log, and to follow the TLS files. The sandbox is entered before, for it holds for those threads that are
/// started in it.
fn begin(_: &Sandbox, serving: &Serving, files: Option<&TlsFiles>) -> Result<Option<Arc<Tls>>, Failed> {
    logging::start(serving.log_format, LevelFilter::Info);
    let Some(files) = files else { return Ok(None) };
    secrets::keep();
    let watched = Watch::new(files.paths());
    let tls = Arc::new(Tls::load(files.clone()).map_err(|e| Failed::at("TLS", e))?);
    let watching = Arc::clone(&tls);
    let changed = move || service::while_reloading(|| reload(&watching, "files changed"));
    watched.start(changed).map_err(|e| Failed::at("could not watch the TLS files", e))?;
    Ok(Some(tls))
}

fn stopped(served: Served) {
    log::info!(
        sessions = served.sessions, cut = served.cut_by_deadline, aborted = served.aborted;
        "stopped"
    );
}

/// What comes from outside: signals, and a service manager's wish to see that we go on.
fn listen_for_signals(controller: Controller, tls: Option<Arc<Tls>>) -> Result<(), Failed> {
    service::watch(controller.clone()).map_err(|e| Failed::at("could not start a thread", e))?;
    let hangup: Reload = Box::new(move || match &tls {
        Some(tls) => service::while_reloading(|| reload(tls, "SIGHUP")),
        None => log::info!("nothing to reload"),
    });
    signals::listen(controller, hangup).map_err(|e| Failed::at("could not listen for signals", e))
}

fn reload(tls: &Tls, why: &str) {
    match tls.reload() {
        Ok(()) => log::info!(why = why; "reloaded; new sessions use what the files hold now"),
        Err(error) => log::error!(why = why, error:% = error; "not reloaded; what was loaded before stays"),
    }
}
