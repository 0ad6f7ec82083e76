// Keeps the list of services current. Without this script the page is complete, and as old as its loading.
"use strict";

(() => {
  const live = document.getElementById("live");
  const list = () => document.getElementById("services");
  const RETRY_MS = 3000;

  const say = (text, lost) => {
    live.textContent = text;
    live.classList.toggle("lost", lost);
  };

  // Replaces the list with what the server shows now; what was folded out or in focus stays so.
  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("services");
    if (!fresh) return;
    const open = new Set([...list().querySelectorAll("details[open]")].map((service) => service.id));
    const focused = document.activeElement?.closest("#services details")?.id;
    for (const service of fresh.querySelectorAll("details")) {
      service.open = open.has(service.id);
    }
    list().replaceWith(fresh);
    if (focused) document.getElementById(focused)?.querySelector("summary").focus();
  };

  // One fetch at a time; a change meanwhile leads to one more.
  let fetching = false;
  let again = false;
  const refresh = async () => {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    try {
      do {
        again = false;
        const answer = await fetch(`/ui/services${location.search}`);
        if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
        replace(await answer.text());
        say("Live: changes appear by themselves.", false);
      } while (again);
    } catch {
      say("The server does not answer: what you see may be old.", true);
    } finally {
      fetching = false;
    }
  };

  // The browser reconnects by itself and says the last event it saw; only where the server refuses it gives up.
  const listen = () => {
    const source = new EventSource(`/ui/events?from=${list().dataset.index}`);
    source.addEventListener("open", () => say("Live: changes appear by themselves.", false));
    source.addEventListener("changed", refresh);
    source.addEventListener("error", () => {
      say("Connection lost, trying again: what you see may be old.", true);
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
    });
  };

  listen();
})();
