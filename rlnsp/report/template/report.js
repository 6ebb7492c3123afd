"use strict";
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const at = (id) => document.getElementById(id);
  const sign = Number(gallery.dataset.sign);
  const number = (text) => (text === "" ? NaN : Number(text));
  const cards = [...gallery.children].map((element) => ({
    element,
    order: Number(element.dataset.order),
    // A score and the share of checks that hold, a pair a view.
    views: element.dataset.views.split(" ").map((view) => view.split(":").map(number)),
  }));

  // Of two scores that are equal, the checks decide.
  function change(card) {
    const [before, after] = [card.views[at("from").value], card.views[at("to").value]];
    return [sign * (after[0] - before[0]), after[1] - before[1]];
  }
  const way = (pair) => Math.sign(pair[0]) || Math.sign(pair[1]) || 0;
  const keys = {
    order: () => [0],
    change: (card) => change(card).map((part) => -Math.abs(part)),
    gain: (card) => change(card).map((part) => -part),
    loss: change,
    worst: (card) => {
      const [score, share] = card.views[at("to").value];
      return [sign * score, share];
    },
  };
  function compare(one, other) {
    for (let i = 0; i < one.key.length; i++) {
      const [a, b] = [one.key[i], other.key[i]];
      if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;  // what is not known comes last
      if (a !== b && !Number.isNaN(a)) return a - b;
    }
    return one.order - other.order;
  }
  const wanted = {
    all: () => true,
    gained: (card) => way(change(card)) > 0,
    lost: (card) => way(change(card)) < 0,
    same: (card) => way(change(card)) === 0,
  };

  function arrange() {
    const key = keys[at("sort").value];
    const show = wanted[at("show").value];
    const sorted = cards.map((card) => ({ ...card, key: key(card) })).sort(compare);
    let shown = 0;
    for (const card of sorted) {
      card.element.hidden = !show(card);
      shown += card.element.hidden ? 0 : 1;
      const difference = change(card);
      const label = card.element.querySelector(".change");
      label.textContent = Number.isNaN(difference[0]) ? "" : (sign * difference[0]).toFixed(3).replace(/^(?!-)/, "+");
      label.className = "change " + ["worse", "unclear", "better"][way(difference) + 1];
      gallery.append(card.element);
    }
    at("count").textContent = `${shown} of ${cards.length} scenes`;
  }

  // Clips are text until they are near, then files of the browser's own.
  function load(video) {
    if (!video.dataset.mp4) return;
    const bytes = Uint8Array.from(atob(video.dataset.mp4), (c) => c.charCodeAt(0));
    delete video.dataset.mp4;
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  }
  const videos = [...gallery.querySelectorAll("video")];
  const visible = new Set();
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  function play(video) {
    if (!playing || video.dataset.stopped || !visible.has(video)) return video.pause();
    video.playbackRate = Number(at("speed").value);
    // Leaving the view stops a clip that is about to play; that is no error.
    video.play().catch((error) => { if (error.name !== "AbortError") throw error; });
  }
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) load(entry.target);
  }, { rootMargin: "600px" });
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        visible.add(entry.target);
        load(entry.target);
      } else visible.delete(entry.target);
      play(entry.target);
    }
  });
  for (const video of videos) {
    if (video.width < 256) video.classList.add("small");
    near.observe(video);
    seen.observe(video);
    const toggle = () => {
      if (video.paused) { delete video.dataset.stopped; video.play(); }
      else { video.dataset.stopped = "yes"; video.pause(); }
    };
    video.addEventListener("click", toggle);
    video.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        video.dataset.stopped = "yes";
        video.pause();
        video.currentTime = Math.min(Math.max(video.currentTime + step / Number(video.dataset.fps), 0), video.duration);
      } else if (event.key === "Enter" || event.key === " ") toggle();
      else return;
      event.preventDefault();
    });
  }
  function announce() {
    at("play").textContent = playing ? "Pause all" : "Play all";
    at("play").setAttribute("aria-pressed", String(playing));
    for (const video of videos) {
      if (playing) delete video.dataset.stopped;
      play(video);
    }
  }
  at("play").addEventListener("click", () => { playing = !playing; announce(); });
  at("speed").addEventListener("change", () => videos.forEach(play));
  for (const id of ["sort", "show", "from", "to"]) at(id).addEventListener("change", arrange);
  arrange();
  announce();
})();
