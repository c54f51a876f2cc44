// Play the clips of a group together, step through their frames, sort and filter groups.
"use strict";
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  /** A video with its frames, and the strip below it. */
  class Clip {
    constructor(figure) {
      this.figure = figure;
      this.video = $("video", figure);
      this.cursor = $(".cursor", figure);
      this.fps = Number(this.video.dataset.fps);
      this.frames = Number(this.video.dataset.frames);
      this.video.muted = true;
    }

    get seconds() { return this.frames / this.fps; }
    get shown() { return !this.figure.hidden; }

    /** Start decoding. Blobs can be sought in every browser, data URIs cannot. */
    load() {
      const [head, body] = this.video.dataset.src.split(",");
      const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
      const type = head.slice("data:".length, head.indexOf(";"));
      this.video.preload = "auto";
      this.video.src = URL.createObjectURL(new Blob([bytes], { type }));
    }

    /** Free the decoder: browsers have a limited number of them. */
    unload() {
      URL.revokeObjectURL(this.video.src);
      this.video.removeAttribute("src");
      this.video.load();
    }

    /** Show the frame at a time, or the last one after the end. */
    seek(time) {
      this.video.currentTime = Math.min(time, (this.frames - 0.5) / this.fps);
      this.mark(time);
    }

    mark(time) {
      const frame = Math.min(Math.floor(time * this.fps + 1e-6), this.frames - 1);
      this.cursor.setAttribute("x", frame);
    }
  }

  /** Clips with one clock. Frames are those of the clip with the most of them per second. */
  class Group {
    constructor(article) {
      this.article = article;
      this.clips = $$("figure", article).filter((each) => $("video", each)).map((each) => new Clip(each));
      this.scores = JSON.parse(article.dataset.scores);
      this.fps = Math.max(1, ...this.clips.map((clip) => clip.fps));
      this.count = Math.max(1, ...this.clips.map((clip) => Math.round(clip.seconds * this.fps)));
      this.slider = $("input[type=range]", article);
      this.slider.max = this.count - 1;
      this.frame = 0;
      this.playing = false;
      this.visible = false;
      this.worst = -1;
      $(".play", article).onclick = () => this.toggle();
      $(".back", article).onclick = () => this.step(-1);
      $(".next", article).onclick = () => this.step(1);
      this.slider.oninput = () => this.show(Number(this.slider.value));
      for (const button of $$("button.worst", article)) button.onclick = () => this.showWorst(button);
      this.describe();
    }

    get active() { return this.clips.filter((clip) => clip.shown); }
    get longest() { return this.active.reduce((a, b) => (b.seconds > a.seconds ? b : a), this.active[0]); }

    setVisible(visible) {
      if (visible === this.visible) return;
      this.visible = visible;
      for (const clip of this.clips) visible ? clip.load() : clip.unload();
      if (visible) this.refresh();
    }

    /** Bring the videos to the frame and the state of the group. */
    refresh() {
      for (const clip of this.clips) {
        clip.seek((this.frame + 0.5) / this.fps);
        if (this.playing && this.visible && clip.shown) clip.video.play().catch(() => {});
        else clip.video.pause();
      }
      this.describe();
    }

    show(frame) {
      this.playing = false;
      this.frame = Math.max(0, Math.min(frame, this.count - 1));
      this.refresh();
    }

    step(by) { this.show(this.frame + by); }

    toggle(playing = !this.playing) {
      this.playing = playing;
      if (playing && this.frame === this.count - 1) this.frame = 0;
      this.refresh();
    }

    showWorst(button) {
      const clip = this.clips.find((each) => each.figure.contains(button));
      this.show(Math.floor(((Number(button.dataset.frame) + 0.5) / clip.fps) * this.fps));
    }

    /** Show the worst frame of all clips, and the next time that of the next clip; the reference last. */
    nextWorst() {
      const buttons = this.active.flatMap((clip) => $$("button.worst", clip.figure));
      if (!buttons.length) return;
      const place = (button) => [button.closest("[data-reference]") ? 1 : 0, Number(button.dataset.likeness)];
      buttons.sort((a, b) => place(a)[0] - place(b)[0] || place(a)[1] - place(b)[1]);
      this.worst = (this.worst + 1) % buttons.length;
      this.showWorst(buttons[this.worst]);
    }

    /** Follow the longest clip, correct the others, and start again at its end. */
    tick() {
      if (!this.playing || !this.visible || !this.active.length) return;
      const leader = this.longest;
      if (leader.video.ended || leader.video.currentTime >= leader.seconds) {
        this.frame = 0;
        this.refresh();
        return;
      }
      const time = leader.video.currentTime;
      for (const clip of this.active) {
        const due = Math.min(time, (clip.frames - 0.5) / clip.fps);
        const late = Math.abs(clip.video.currentTime - due) > 1 / clip.fps;
        if (clip !== leader && late && !clip.video.seeking) clip.video.currentTime = due;
        clip.mark(time);
      }
      const frame = Math.min(Math.floor(time * this.fps), this.count - 1);
      if (frame !== this.frame) {
        this.frame = frame;
        this.describe();
      }
    }

    describe() {
      $(".play", this.article).textContent = this.playing ? "Pause" : "Play";
      const text = `frame ${this.frame + 1} of ${this.count}, ${(this.frame / this.fps).toFixed(2)} s`;
      $("output", this.article).textContent = text;
      this.slider.value = this.frame;
      this.slider.setAttribute("aria-valuetext", text);
      for (const button of $$("button.worst", this.article)) {
        const clip = this.clips.find((each) => each.figure.contains(button));
        const own = Math.floor(((this.frame + 0.5) / this.fps) * clip.fps);
        button.classList.toggle("now", own === Number(button.dataset.frame));
      }
    }
  }

  const groups = $$(".group").map((article) => new Group(article));
  const of = new Map(groups.map((group) => [group.article, group]));
  let current = null;

  const shown = () => $$(".group").map((article) => of.get(article)).filter((group) => !group.article.hidden);

  function select(group) {
    current?.article.removeAttribute("aria-current");
    current = group;
    group?.article.setAttribute("aria-current", "true");
  }

  /** Go to the group that is `by` places further; without a current group, to the first visible. */
  function go(by) {
    const listed = shown();
    const place = listed.indexOf(current);
    const start = listed.findIndex((group) => group.visible);
    const target = place < 0 ? Math.max(start, 0) : Math.max(0, Math.min(place + by, listed.length - 1));
    if (!listed.length) return;
    select(listed[target]);
    listed[target].article.focus({ preventScroll: true });
    listed[target].article.scrollIntoView({ block: "start" });
  }

  function playAll(playing = !groups.some((group) => group.playing)) {
    for (const group of shown()) group.toggle(playing);
  }

  function filter() {
    const identity = $("#identity").value;
    const methods = new Set($$("input.method:checked").map((box) => box.value));
    for (const group of groups) {
      for (const figure of $$("figure[data-method]", group.article)) {
        figure.hidden = !methods.has(figure.dataset.method);
      }
      const other = identity && identity !== `=${group.article.dataset.identity}`;
      group.article.hidden = other || !$("figure[data-method]:not([hidden])", group.article);
      if (group.article.hidden) group.playing = false;
      group.refresh();
    }
    if (current?.article.hidden) select(null);
    count();
  }

  function count() {
    $("#count").textContent = `${shown().length} of ${groups.length} groups`;
  }

  /** Groups without a score are last. */
  function sort() {
    const { metric, sign } = $("#order").selectedOptions[0].dataset;
    const key = (group) => (metric ? sign * (group.scores[metric] ?? sign * Infinity) : group.article.dataset.place);
    $("#groups").append(...[...groups].sort((a, b) => key(a) - key(b)).map((group) => group.article));
  }

  const keys = {
    j: () => go(1),
    k: () => go(-1),
    " ": () => target().toggle(),
    a: () => playAll(),
    ".": () => target().step(1),
    ",": () => target().step(-1),
    w: () => target().nextWorst(),
    "?": () => $("#help").showModal(),
  };

  /** The current group, or the first visible one. */
  function target() {
    if (!current) select(shown().find((group) => group.visible) ?? shown()[0]);
    return current;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
    const on = event.target;
    if (on.matches("select") || !$("#shortcuts").checked || !keys[event.key]) return;
    if (event.key === " " && on.matches("button, summary, a, input")) return;
    if (event.key !== "?" && !shown().length) return;
    event.preventDefault();
    keys[event.key]();
  });
  document.addEventListener("focusin", (event) => {
    const article = event.target.closest?.(".group");
    if (article) select(of.get(article));
  });
  document.addEventListener("pointerdown", (event) => {
    const article = event.target.closest?.(".group");
    if (article) select(of.get(article));
  });
  addEventListener("beforeprint", () => $$(".definitions, .note details").forEach((each) => { each.open = true; }));

  if (!$("#toolbar")) return; // a report without clips
  $("#play-all").onclick = () => playAll();
  $("#open-help").onclick = () => $("#help").showModal();
  $("#identity").onchange = filter;
  $("#order").onchange = sort;
  for (const box of $$("input.method")) box.onchange = filter;

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) of.get(entry.target).setVisible(entry.isIntersecting);
  });
  for (const group of groups) observer.observe(group.article);

  const tick = () => {
    for (const group of groups) group.tick();
    $("#play-all").textContent = groups.some((group) => group.playing) ? "Pause all" : "Play all";
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  $("#toolbar").hidden = false;
  count();
})();
