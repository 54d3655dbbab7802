// Brings what is shown up to date every two seconds while the page can be seen. Without it the page shows one moment.
"use strict";

(() => {
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const here = new URL(location.href);
  if (!here.searchParams.get("tenant")) return;
  const source = new URL("live", here);
  source.search = here.search;
  let shown = "";

  const say = (text) => {
    live.hidden = false;
    if (live.textContent !== text) live.textContent = text;
  };

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(source, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const text = await answer.text();
      if (text !== shown) {
        const place = document.activeElement?.closest("section")?.getAttribute("aria-labelledby");
        main.innerHTML = shown = text;
        if (place) document.getElementById(place)?.parentElement.querySelector("[tabindex]")?.focus();
      }
      say("live");
    } catch {
      say("not live: the server does not answer");
    }
  };

  setInterval(refresh, 2000);
  document.addEventListener("visibilitychange", refresh);
})();
