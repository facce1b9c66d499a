//! A node program from its command line to its exit code.

use std::env;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use log::LevelFilter;

use crate::cli::{self, Action, Early, Forward};
use crate::control::{self, Controller};
use crate::demo;
use crate::descriptors;
use crate::inherited::Inherited;
use crate::listen::listen;
use crate::logging::{self, complain, say};
use crate::observer::LogObserver;
use crate::resolve::Backend;
use crate::server::{Plan, Route, Runtime, Served, Server};
use crate::signals::{self, Reload};
use crate::tls::Tls;

/// Exit codes, part of the command line's contract.
const FAILED: u8 = 1;
const MISUSED: u8 = 2;
const CUT: u8 = 3;

/// Why a program ends early: one line.
#[derive(Debug)]
struct Failed(String);

impl Failed {
    fn at(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// Runs a node program named `name` on `runtime`, as the command line says.
///
/// Exit codes: 0 done or drained, 1 failed (or sessions aborted by a second signal), 2 bad usage,
/// 3 the drain's deadline passed with sessions cut.
pub fn main(runtime: &impl Runtime, name: &'static str) -> ExitCode {
    // First of all: it takes variables out of the environment, and threads might be reading that.
    let inherited = Inherited::from_env();
    let done = match cli::parse(name, env::args_os()) {
        Ok(Action::Forward(forward)) => run_forward(runtime, *forward, inherited),
        Ok(Action::Demo(asked)) => {
            logging::start(asked.log_format, LevelFilter::Error);
            demo::run(runtime, &asked)
                .map(|()| Served::default())
                .map_err(|e| Failed::at("the demo failed", e))
        }
        Err(Early::Told(text)) => {
            say(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Early::Misused(line)) => {
            complain(&format!("{name}: {line}"));
            return ExitCode::from(MISUSED);
        }
    };
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

fn run_forward(runtime: &impl Runtime, forward: Forward, mut inherited: Inherited) -> Result<Served, Failed> {
    logging::start(forward.log_format, LevelFilter::Info);
    let tls = match &forward.tls {
        Some(files) => Some(Arc::new(Tls::load(files.clone()).map_err(|e| Failed::at("TLS", e))?)),
        None => None,
    };
    let routes = routes(&forward, tls.as_ref(), &mut inherited)?;
    let (controller, commands) =
        control::channel().map_err(|e| Failed::at("could not make a socket pair", e))?;
    watch_signals(controller, tls)?;
    for route in &routes {
        say(&format!("listening {}", route.listener.local()));
    }
    let server = Server {
        limits: descriptors::limits(forward.max_sessions, &routes),
        routes,
        drain_timeout: forward.timeouts.drain,
        observer: Arc::new(LogObserver),
        commands,
    };
    let served = runtime.serve(server).map_err(|e| Failed(e.to_string()))?;
    log::info!(
        sessions = served.sessions, cut = served.cut_by_deadline, aborted = served.aborted;
        "stopped"
    );
    Ok(served)
}

fn routes(
    forward: &Forward,
    tls: Option<&Arc<Tls>>,
    inherited: &mut Inherited,
) -> Result<Vec<Route>, Failed> {
    let route = |(listen_at, connect): &_| {
        let backend =
            Backend::new(connect).map_err(|e| Failed::at(format_args!("cannot dial {connect}"), e))?;
        let listener = listen(listen_at, forward.socket_mode, inherited)
            .map_err(|e| Failed::at(format_args!("cannot listen on {listen_at}"), e))?;
        let plan = Plan::new(listener.local().clone(), backend, tls, &forward.timeouts)
            .map_err(|e| Failed::at(format_args!("cannot dial {connect}"), e))?;
        Ok(Route { listener, plan: Arc::new(plan) })
    };
    forward.pairs.iter().map(route).collect()
}

fn watch_signals(controller: Controller, tls: Option<Arc<Tls>>) -> Result<(), Failed> {
    let reload: Reload = Box::new(move || match tls.as_deref().map(Tls::reload) {
        Some(Ok(())) => log::info!("reloaded; new sessions use what the files hold now"),
        Some(Err(error)) => log::error!(error:% = error; "not reloaded; what was loaded before stays"),
        None => log::info!("nothing to reload"),
    });
    signals::listen(controller, reload).map_err(|e| Failed::at("could not listen for signals", e))
}
