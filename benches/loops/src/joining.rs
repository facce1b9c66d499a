//! `relay_tokio::relay` in the place of `copy_bidirectional`.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;

use relay_tokio::relay_tls::{ClientTls, Material, Pem, ServerTls};
use relay_tokio::{Config, Side, relay};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Mode;
use crate::copying::Task;
use crate::serving::tell;

/// What the nodes give a session.
const CAPACITY: usize = 256 << 10;

/// Relays for ever.
pub(crate) fn run(task: &Task<'_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let tls = (task.mode == Mode::Tls).then(|| material(task.directory));
    runtime.block_on(async {
        if task.source().is_some() {
            let client = |tls| ClientTls::builder(&tls).build().expect("settings");
            source(task, tls.map(client)).await
        } else {
            let server = |tls| ServerTls::builder(&tls).build().expect("settings");
            target(task, tls.map(server)).await
        }
    });
}

fn material(directory: &Path) -> Material {
    let [cert, key, ca] = ["cert", "key", "ca"].map(|name| fs::read(directory.join(name)).expect("a file"));
    let pem = |file, bytes| Pem { file, bytes };
    Material::from_pem(pem("cert", &cert), pem("key", &key), pem("ca", &ca)).expect("certificates")
}

async fn source(task: &Task<'_>, tls: Option<ClientTls>) {
    let listener = tokio::net::UnixListener::bind(task.source().unwrap_or_default()).expect("bind");
    tell(task.from);
    loop {
        let Ok((front, _)) = listener.accept().await else { continue };
        let (to, tls) = (task.destination().to_owned(), tls.clone());
        tokio::spawn(async move {
            let back = tokio::net::TcpStream::connect(&to).await?;
            back.set_nodelay(true)?;
            let back = match tls {
                None => Side::plain(back),
                Some(tls) => Side::tls(back, tls.codec("127.0.0.1").map_err(io::Error::other)?),
            };
            join(Side::plain(front), back).await;
            io::Result::Ok(())
        });
    }
}

async fn target(task: &Task<'_>, tls: Option<ServerTls>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("flag");
    task.tell_port(&listener);
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((front, _)) = listener.accept().await else { continue };
        let (to, tls) = (task.destination().to_owned(), tls.clone());
        tokio::spawn(async move {
            front.set_nodelay(true)?;
            let front = match tls {
                None => Side::plain(front),
                Some(tls) => Side::tls(front, tls.codec()),
            };
            join(front, Side::plain(tokio::net::UnixStream::connect(&to).await?)).await;
            io::Result::Ok(())
        });
    }
}

async fn join<A, B>(front: Side<A>, back: Side<B>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    relay(front, back, Config::new(CAPACITY)).await;
}
