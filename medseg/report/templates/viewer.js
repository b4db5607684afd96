"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const options = JSON.parse(byId("viewer-options").textContent);
  const said = options.text, start = byId("viewer-start"), status = byId("viewer-status");
  const packed = (id) => byId(id).textContent.trim();
  start.hidden = false;
  status.textContent = "";

  const unpacked = async (id) => {
    const bytes = Uint8Array.from(atob(packed(id)), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const hasWebGL2 = () => {
    const found = document.createElement("canvas").getContext("webgl2");
    found?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(found);
  };

  // The browser runs it only if its hash is the one in the page's Content-Security-Policy.
  const library = async () => {
    if (!globalThis.niivue) {
      const script = document.createElement("script");
      script.textContent = await unpacked("viewer-library");
      document.head.append(script);
    }
    return globalThis.niivue;
  };

  const volume = ({ NVImage }, id, more) =>
    NVImage.loadFromBase64({ base64: packed(id), name: `${id}.nii.gz`, ...more });

  const colours = (structures) => {
    const rows = [{ index: 0, rgb: [0, 0, 0] }, ...structures];
    const channel = (k) => rows.map((row) => row.rgb[k]);
    return { I: rows.map((row) => row.index), R: channel(0), G: channel(1), B: channel(2) };
  };

  const open = async () => {
    const nv3 = await library();
    const nv = new nv3.Niivue({
      logLevel: "silent", loadingText: "", dragAndDropEnabled: false, showLegend: false, isColorbar: false,
      isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: false, scrollRequiresFocus: true,
      isOrientationTextVisible: options.known, showAllOrientationMarkers: options.known, fontColor: [1, 1, 1, 1],
      crosshairColor: [1, 0.85, 0.2, 0.8], crosshairWidth: 0.5, backColor: [0, 0, 0, 1],
      multiplanarShowRender: nv3.SHOW_RENDER.ALWAYS,
    });
    await nv.attachToCanvas(byId("viewer-canvas"));
    const image = await volume(nv3, "viewer-volume", { colormap: "gray", cal_min: 0, cal_max: 255 });
    const span = (axis) => image.dimsRAS[axis] * image.pixDimsRAS[axis];
    // A trunk that is higher than wide has the largest planes side by side.
    nv.opts.multiplanarLayout = span(3) > 1.3 * span(1) ? nv3.MULTIPLANAR_TYPE.ROW : nv3.MULTIPLANAR_TYPE.GRID;
    nv.addVolume(image);
    const mask = await volume(nv3, "viewer-mask", { opacity: 0.5 });
    mask.setColormapLabel(colours(options.structures));
    nv.addVolume(mask);
    if (byId("viewer-reference")) {
      const reference = await volume(nv3, "viewer-reference", { opacity: 0 });
      reference.setColormapLabel(colours(options.reference));
      nv.addVolume(reference);
    }
    return { nv, nv3, mask };
  };

  const listen = ({ nv, nv3, mask }) => {
    const kinds = nv3.SLICE_TYPE;
    const types = { multi: kinds.MULTIPLANAR, axial: kinds.AXIAL, coronal: kinds.CORONAL, sagittal: kinds.SAGITTAL, solid: kinds.RENDER };
    const names = new Map(options.structures.map((row) => [row.index, row.name]));
    const view = () => document.querySelector("#viewer [name=viewer-view]:checked").value;
    const show = () => {
      nv.setOpacity(0, byId("viewer-image").checked ? 1 : 0);
      nv.setSliceType(types[view()]);
    };
    // NiiVue leaves a mask out whose opacity is 0, its outlines too.
    const blend = () => {
      const outlined = Boolean(byId("viewer-outline")?.checked);
      const opacity = outlined ? 0.004 : (byId("viewer-opacity")?.value ?? 50) / 100;
      if (byId("viewer-opacity")) byId("viewer-opacity").disabled = outlined;
      nv.opts.atlasOutline = outlined ? 1 : 0;
      if (byId("viewer-reference")) nv.setOpacity(2, byId("viewer-known").checked ? opacity : 0);
      nv.setOpacity(1, opacity);
    };
    // It would outline structures of a colour that is clear, so those not shown are taken out of the mask.
    const whole = mask.img.slice();
    const boxes = [...document.querySelectorAll("#viewer [data-structure]")];
    const choose = () => {
      const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => Number(box.dataset.structure)));
      for (let k = 0; k < whole.length; k++) mask.img[k] = hidden.has(whole[k]) ? 0 : whole[k];
      nv.updateGLVolume();
    };
    for (const radio of document.querySelectorAll("#viewer [name=viewer-view]")) radio.addEventListener("change", show);
    byId("viewer-image").addEventListener("change", show);
    byId("viewer-opacity")?.addEventListener("input", blend);
    byId("viewer-outline")?.addEventListener("change", blend);
    byId("viewer-known")?.addEventListener("change", blend);
    for (const box of boxes) box.addEventListener("change", choose);
    const letter = (value, axis) => `${options.known ? axis[value < 0 ? 1 : 0] + " " : ""}${Math.abs(value).toFixed(0)}`;
    nv.onLocationChange = ({ mm, values }) => {
      const place = ["RL", "AP", "SI"].map((axis, k) => letter(mm[k], axis)).join(" · ");
      const name = document.createElement("bdi");
      name.textContent = names.get(values[1]?.value) ?? said.none;
      byId("viewer-place").replaceChildren(`${place}${options.measured ? " mm" : ""} · `, name);
    };
    // Across, up and through a plane as it is shown: the patient's right side, or the front, is on the left.
    const axes = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };
    const steps = { ArrowLeft: [0, 1], ArrowRight: [0, -1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1] };
    const move = ([along, sign]) => {
      if (view() === "solid") {
        const turn = [0, 0, 0];
        turn[along] = 5 * sign;
        nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + turn[0], nv.scene.renderElevation + turn[1]);
        return;
      }
      const step = [0, 0, 0];
      step[(axes[view()] ?? axes.axial)[along]] = sign;
      nv.moveCrosshairInVox(...step);
    };
    // NiiVue's own keys (letters that open dialogues, cut planes) are kept from it.
    const keys = (event) => {
      if (event.key === "Tab") return;
      event.stopPropagation();
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      if (event.type === "keydown") move(step);
    };
    byId("viewer-frame").addEventListener("keydown", keys, true);
    byId("viewer-frame").addEventListener("keyup", keys, true);
    show();
  };

  start.addEventListener("click", async () => {
    start.disabled = true;
    if (!hasWebGL2()) {
      status.textContent = said.no_webgl;
      return;
    }
    status.textContent = said.loading;
    byId("viewer-room").hidden = false;
    try {
      listen(await open());
      status.textContent = "";
      start.hidden = true;
      byId("viewer-canvas").focus();
      byId("viewer").dataset.ready = "yes";
    } catch (problem) {
      byId("viewer-room").hidden = true;
      status.textContent = `${said.failed} (${problem.message})`;
    }
  });
})();
