// The console works without this. With it, times are local, and a page shows what
// changes within a second: /live says that something changed, and the part of the page
// that changes is fetched anew, as the server's own templates make it. Nothing that
// came over the wire is ever put together to markup here.
"use strict";

(() => {
  const leastWait = 300; // milliseconds between two fetches, or three times what the last one took
  const silence = 17000; // milliseconds without a word, three pulses, after which a connection is dead
  const fetchMost = 12000; // milliseconds of a fetch: on a connection that is dead nothing else ends it
  const retryMost = 30000; // between two tries to listen again
  const sleepAfter = 30000; // milliseconds out of sight, after which a page does not listen
  const sayEvery = 10000; // between two announcements to screen readers

  // Times: local, with UTC when the pointer rests on them.
  const forms = {
    datetime: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" }),
    day: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }),
    dated: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 }),
    time: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 }),
    tenth: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 }),
    second: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" }),
  };
  const localize = (root) => {
    for (const e of root.querySelectorAll("time[data-time]")) {
      const at = new Date(e.dateTime);
      if (isNaN(at)) continue;
      const today = at.toDateString() === new Date().toDateString();
      const exact = e.dataset.time === "time"; // to the millisecond
      e.textContent = forms[today ? (exact ? "time" : "second") : (exact ? "dated" : "datetime")].format(at);
    }
    for (const e of root.querySelectorAll("text[data-tick]")) {
      const at = new Date(e.dataset.tick);
      if (!isNaN(at)) e.textContent = forms[e.dataset.day ? "day" : e.dataset.tenth ? "tenth" : "second"].format(at);
    }
  };
  localize(document);

  // An empty field says nothing: the address stays short.
  document.querySelectorAll("form[method=get]").forEach((form) => form.addEventListener("submit", () => {
    for (const e of form.querySelectorAll("input, select")) if (!e.value) e.disabled = true;
    setTimeout(() => form.querySelectorAll("input, select").forEach((e) => { e.disabled = false; }), 0);
  }));

  // A page that could not be made tries again by itself.
  const again = document.querySelector("[data-again]");
  if (again) {
    const wait = Number(again.dataset.again);
    const look = () => fetch(location.href, { credentials: "same-origin" })
      .then((answer) => { if (answer.status === 503) throw new Error("not yet"); location.reload(); })
      .catch(() => setTimeout(look, wait));
    setTimeout(look, wait);
  }

  const page = document.body.dataset.live;
  if (!page || !window.EventSource) return;
  const connection = document.getElementById("connection");
  const announce = document.getElementById("announce");
  const pause = document.getElementById("pause");
  const say = (state, text) => {
    connection.dataset.connection = state;
    connection.textContent = text;
  };

  let source = null;
  let paused = false;
  let asleep = false; // nobody sees the page
  let fetching = false;
  let wanted = false; // something changed since the last fetch began
  let fetched = 0; // when the last fetch began
  let took = 0; // milliseconds of the last fetch and swap
  let heard = 0; // when the connection last gave a sign of life
  let timer = 0;
  let retry = 1000;
  let changes = 0; // since the last announcement
  let said = 0;

  // what a swap must not lose: where the keyboard is, what is unfolded, what is typed.
  const keep = (live) => {
    const focus = document.activeElement;
    const at = focus && live.contains(focus) ? {
      id: focus.id, href: focus.getAttribute("href"), label: focus.getAttribute("aria-label"), start: focus.selectionStart,
    } : null;
    const open = [...live.querySelectorAll("details[open]")].map((e) => e.id);
    const typed = [...live.querySelectorAll("input:not([type=hidden])")].filter((e) => e.id && e.value).map((e) => [e.id, e.value]);
    const scrolled = [...live.querySelectorAll(".scroll, pre")].map((e) => [e.scrollLeft, e.scrollTop]);
    return (next) => {
      for (const id of open) if (id) next.querySelector("#" + CSS.escape(id))?.setAttribute("open", "");
      for (const [id, value] of typed) { const e = next.querySelector("#" + CSS.escape(id)); if (e) e.value = value; }
      return () => {
        [...next.querySelectorAll(".scroll, pre")].forEach((e, i) => { if (scrolled[i]) [e.scrollLeft, e.scrollTop] = scrolled[i]; });
        if (!at) return;
        const same = (at.id && next.querySelector("#" + CSS.escape(at.id))) ||
          (at.href && [...next.querySelectorAll("a")].find((e) => e.getAttribute("href") === at.href)) ||
          (at.label && [...next.querySelectorAll("[aria-label]")].find((e) => e.getAttribute("aria-label") === at.label));
        const e = same || document.getElementById("main");
        e.focus({ preventScroll: true });
        if (at.start != null && e.setSelectionRange) { try { e.setSelectionRange(at.start, at.start); } catch { /* of no text field */ } }
      };
    };
  };

  const swap = (text) => {
    const live = document.getElementById("live");
    const next = new DOMParser().parseFromString(text, "text/html").getElementById("live");
    if (!next) return;
    const before = new Map([...live.querySelectorAll("tr[data-log-key]")].map((e) => [e.dataset.logKey, e.dataset.place]));
    const adopted = document.importNode(next, true);
    localize(adopted);
    const after = keep(live)(adopted);
    for (const e of adopted.querySelectorAll(".banner[data-say]")) if (!document.getElementById(e.id)) announce.textContent = e.dataset.say;
    if (document.getElementById("banner-away") && !adopted.querySelector("#banner-away")) announce.textContent = "NATS answers again.";
    if (before.size) {
      for (const e of adopted.querySelectorAll("tr[data-place]")) {
        if (before.get(e.dataset.logKey) !== e.dataset.place) e.classList.add("fresh");
      }
    }
    live.replaceWith(adopted);
    after();
  };

  const load = async () => {
    timer = 0;
    fetching = true;
    wanted = false;
    fetched = Date.now();
    let failed = false;
    const here = new URL(location.href);
    here.searchParams.delete("done");
    here.searchParams.set("fragment", "1");
    try {
      const answer = await fetch(here, { credentials: "same-origin", redirect: "error", signal: AbortSignal.timeout(fetchMost) });
      // While NATS does not answer a page keeps what it shows, and says so.
      if (answer.ok || answer.status === 404 && !document.querySelector("#live table")) swap(await answer.text());
      else if (answer.status === 503) wanted = failed = true;
    } catch { wanted = failed = true; }
    fetching = false;
    took = wanted && failed ? 700 : Date.now() - fetched; // not so often while it cannot be made
    if (wanted) plan();
  };
  const plan = () => {
    wanted = true;
    if (paused || fetching || timer) return;
    timer = setTimeout(load, Math.max(0, fetched + Math.max(leastWait, 3 * took) - Date.now()));
  };

  const tell = (n) => {
    changes += n;
    if (!changes || Date.now() - said < sayEvery) return;
    announce.textContent = changes === 1 ? "1 change" : changes + " changes";
    changes = 0;
    said = Date.now();
  };

  const listen = () => {
    const at = document.getElementById("live").dataset;
    source = new EventSource("/live?" + page + "&after=" + encodeURIComponent(at.seq) + (at.moves ? "&moves=" + encodeURIComponent(at.moves) : ""));
    heard = Date.now();
    source.addEventListener("open", () => { retry = 1000; heard = Date.now(); say("live", "Live"); });
    source.addEventListener("pulse", () => { heard = Date.now(); });
    source.addEventListener("changed", (e) => {
      heard = Date.now();
      let n = 0;
      try { n = JSON.parse(e.data).n; } catch { /* then nothing is announced */ }
      tell(n);
      plan();
    });
    source.addEventListener("state", () => { heard = Date.now(); plan(); });
    source.addEventListener("reload", () => { heard = Date.now(); plan(); });
    source.addEventListener("error", () => {
      if (paused || asleep) return;
      say("lost", "The connection is lost; it comes back by itself.");
      // The browser itself connects again, from where it was, unless it was refused.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => { if (!paused && !asleep) { listen(); plan(); } }, retry);
      retry = Math.min(2 * retry, retryMost);
    });
  };

  // A connection may be dead without an end, as after a sleep: then it is made anew.
  setInterval(() => {
    if (paused || asleep || source.readyState === EventSource.CLOSED || Date.now() - heard < silence) return;
    source.close();
    say("lost", "The connection is lost; it comes back by itself.");
    listen();
    plan();
  }, 1000);

  // A browser keeps a handful of connections to one host: a tab that nobody sees gives
  // its own back, and is up to date again as soon as somebody looks.
  let hiding = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) {
      hiding = setTimeout(() => {
        asleep = true;
        source.close();
      }, sleepAfter);
    } else if (asleep) {
      asleep = false;
      if (!paused) { listen(); plan(); }
    }
  });

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on with updates" : "Pause updates";
    if (paused) {
      source.close();
      say("paused", "Updates are paused.");
    } else {
      asleep = false;
      listen();
      plan();
    }
  });
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (e) => { if (e.persisted && !paused) { listen(); plan(); } });
  say("none", "Connecting…");
  listen();
})();
