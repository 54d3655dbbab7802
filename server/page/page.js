// Brings what is shown up to date every two seconds while the page can be seen. Without it the page shows one moment.
"use strict";

(() => {
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const here = new URL(location.href);
  if (!here.searchParams.get("tenant")) return;
  const source = new URL("live", here);
  source.search = here.search;
  let asking = false;

  const say = (text) => {
    live.hidden = false;
    if (live.textContent !== text) live.textContent = text;
  };

  // Only parts that differ are replaced: what somebody reads, marks or hears read out is left alone.
  const show = (fresh) => {
    const focused = main.contains(document.activeElement) && document.activeElement.closest("section");
    [...fresh.children].forEach((part, place) => {
      const old = main.children[place];
      if (!old) main.append(part);
      else if (old.outerHTML !== part.outerHTML) old.replaceWith(part);
    });
    if (focused && !focused.isConnected) {
      const again = document.getElementById(focused.getAttribute("aria-labelledby"));
      again?.parentElement.querySelector("[tabindex]")?.focus({ preventScroll: true });
    }
  };

  const refresh = async () => {
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch(source, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      const fresh = document.createElement("template");
      fresh.innerHTML = await answer.text();
      if (answer.ok) {
        const count = fresh.content.children.length;
        show(fresh.content);
        while (main.children.length > count) main.lastElementChild.remove();
        say("live");
      } else {
        say(`not live: ${fresh.content.textContent}`);
      }
    } catch {
      say("not live: the server does not answer");
    }
    asking = false;
  };

  setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
})();
