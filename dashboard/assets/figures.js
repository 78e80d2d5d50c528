/* Figures: their library is on its way before a page asks for it, and each is saved as it looks. */
(function () {
  const LIBRARY = "/_dash-component-suites/plotly/package_data/plotly.min.js";
  const named = document.querySelector('meta[name="figures"]');
  const pages = named ? named.content.split(" ") : [];
  const drawn = (path) => pages.includes(path.replace(/^\/|\/$/g, ""));

  /* Dash asks for plotly when the page's content has come, and waits for what stands under that name: also a promise.
     Read meanwhile, it is there by then. Its script puts the library in the promise's place. */
  function fetched() {
    if (window.Plotly) return;
    window.Plotly = new Promise((there, failed) => {
      const script = document.createElement("script");
      script.src = LIBRARY;
      script.onload = there;
      script.onerror = () => { window.Plotly = undefined; failed(new Error("plotly.js was not loaded")); };
      document.head.append(script);
    });
    window.Plotly.catch(() => {});
  }
  if (drawn(location.pathname)) fetched();
  for (const reached of ["pointerover", "focusin"])
    document.addEventListener(reached, (event) => {
      const link = event.target.closest && event.target.closest("a.page-link");
      if (link && drawn(new URL(link.href).pathname)) fetched();
    });

  /* A figure as it looks now: theme, zoom and hidden classes are the style sheet's, which a file does not have */
  const SVG = "http://www.w3.org/2000/svg";
  const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "opacity",
    "display", "visibility", "font-family", "font-size", "font-weight"];
  function copied(node) {
    const copy = node.cloneNode(true), from = [node, ...node.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    const unseen = [];
    from.forEach((one, place) => {
      if (one.matches(".hoverlayer, .draglayer")) unseen.push(to[place]);
      const look = getComputedStyle(one);
      to[place].removeAttribute("class");
      to[place].setAttribute("style", LOOKS.map((name) => name + ":" + look.getPropertyValue(name)).join(";"));
    });
    unseen.forEach((layer) => layer.remove());
    return copy;
  }
  function made(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  /* What the marks mean: the words that stand above the figure */
  function legend(frame, look, x, y) {
    const group = made("g", { "font-family": look.fontFamily, "font-size": 12 }), card = frame.closest(".card");
    const words = card ? card.querySelectorAll(".toggle[aria-pressed=true], .legend > span") : [];
    for (const word of words) {
      const mark = word.querySelector(".mark, .swatch"), colour = mark && getComputedStyle(mark);
      if (mark && mark.matches(".swatch")) group.append(made("rect", { x, y: y - 10, width: 10, height: 10, rx: 3, fill: colour.backgroundColor }));
      else if (mark) group.append(made("text", { x, y, fill: colour.color }, mark.textContent));
      const said = [...word.childNodes].filter((one) => one !== mark).map((one) => one.textContent).join(" ");
      group.append(made("text", { x: x + 16, y, fill: look.color }, said));
      x += word.getBoundingClientRect().width + 16;
    }
    return words.length ? group : null;
  }
  function picture(frame) {
    const plot = frame.querySelector(".js-plotly-plot"), box = plot.getBoundingClientRect();
    const look = getComputedStyle(frame.closest(".card") || document.body), words = legend(frame, look, 16, 22);
    const top = words ? 34 : 0, height = box.height + top;
    const whole = made("svg", { xmlns: SVG, width: box.width, height, viewBox: `0 0 ${box.width} ${height}` });
    whole.append(made("rect", { width: box.width, height, fill: look.backgroundColor }));
    if (words) whole.append(words);
    const inside = made("g", { transform: `translate(0,${top})` });
    plot.querySelectorAll(".main-svg").forEach((layer) => inside.append(copied(layer)));
    whole.append(inside);
    return { text: new XMLSerializer().serializeToString(whole), width: box.width, height };
  }
  function kept(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  function save(frame, format) {
    if (!frame.querySelector(".js-plotly-plot .main-svg")) return;
    const drawing = picture(frame), name = document.title.replace(/[^\w.-]+/g, "_").slice(0, 80);
    const blob = new Blob([drawing.text], { type: "image/svg+xml" }), asSvg = () => kept(blob, name + ".svg");
    if (format === "svg") { asSvg(); return; }
    const image = new Image(), address = URL.createObjectURL(blob);
    image.onload = () => {
      const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
      canvas.width = drawing.width * 2;
      canvas.height = drawing.height * 2;
      pen.scale(2, 2);
      pen.drawImage(image, 0, 0);
      URL.revokeObjectURL(address);
      canvas.toBlob((pixels) => pixels ? kept(pixels, name + ".png") : asSvg());  // none where it is too large
    };
    image.onerror = () => { URL.revokeObjectURL(address); asSvg(); };
    image.src = address;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-save]");
    if (button) save(button.closest(".graph"), button.dataset.save);
  });
})();
