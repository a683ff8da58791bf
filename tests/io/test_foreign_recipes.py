"""Recipes of other tools, in the layouts that they publish."""

import json
import random

import pytest

from ldm.io.metadata.foreign_recipes import foreign_recipe

# The layout of AUTOMATIC1111/stable-diffusion-webui, `processing.create_infotext`; the prompt has two lines.
A1111 = """a (red:1.2) fox, \\(oil\\)
second line
Negative prompt: blurry, text
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4294967295, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Clip skip: 2, \
Lora hashes: "style: 1a2b, other: 3c4d", Version: v1.10.1"""

COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["11", 0]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.8, "model": ["4", 0], "clip": ["4", 1]},
    },
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
}

INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a fox",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 512,
    "seed": 0,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "euler_a",
    "clip_skip": 1,
    "model": {"name": "sd-1.5", "base": "sd-1"},
    "loras": [{"weight": 0.75}],
}


def test_a1111_parameters_are_read():
    recipe = foreign_recipe({"parameters": A1111})
    assert recipe is not None and recipe.tool == "A1111"
    assert recipe.values == {
        "prompt": "a (red:1.2) fox, \\(oil\\)\nsecond line",
        "negative_prompt": "blurry, text",
        "num_inference_steps": 20,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "guidance_scale": 6.5,
        "seed": 4294967295,
        "width": 512,
        "height": 768,
        "model": "v1-5-pruned-emaonly",
        "clip_skip": -2,
    }
    assert recipe.unused == {"Model hash": "6ce0161689", "Lora hashes": "style: 1a2b, other: 3c4d"}


def test_a1111_text_without_a_parameter_line_is_all_prompt():
    recipe = foreign_recipe({"parameters": "a fox: red, blue"})
    assert recipe is not None and recipe.values == {"prompt": "a fox: red, blue", "negative_prompt": ""}


def test_comfy_graph_is_followed_from_the_sampler():
    recipe = foreign_recipe({"prompt": json.dumps(COMFY), "workflow": "{}"})
    assert recipe is not None and recipe.tool == "ComfyUI"
    assert recipe.values == {
        "seed": 7,
        "num_inference_steps": 20,
        "guidance_scale": 8.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 640,
        "height": 512,
        "model": "v1-5.safetensors",
        "clip_skip": -2,
    }
    assert recipe.unused == {"lora": "ink.safetensors at 0.8"}


def test_comfy_says_what_it_cannot_follow():
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"] |= {"denoise": 0.5, "steps": ["9", 0], "latent_image": ["12", 0]}
    graph["12"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["13", 0]}}
    recipe = foreign_recipe({"prompt": json.dumps(graph)})
    assert recipe is not None and "num_inference_steps" not in recipe.values and "width" not in recipe.values
    assert {"denoise", "steps", "latent_image"} <= recipe.unused.keys()
    assert recipe.unused["latent_image"] == "VAEEncode"


def test_a_loop_in_a_comfy_graph_ends():
    graph = json.loads(json.dumps(COMFY))
    graph["4"]["inputs"]["model"] = ["10", 0]
    assert foreign_recipe({"prompt": json.dumps(graph)}) is not None


def test_invoke_metadata_is_read():
    recipe = foreign_recipe({"invokeai_metadata": json.dumps(INVOKE)})
    assert recipe is not None and recipe.tool == "InvokeAI"
    assert recipe.values == {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 512,
        "seed": 0,
        "guidance_scale": 7.5,
        "num_inference_steps": 30,
        "sampler": "euler_a",
        "clip_skip": -2,
        "model": "sd-1.5",
    }
    assert recipe.unused == {"loras": '[{"weight": 0.75}]'}


@pytest.mark.parametrize("keyword", ["parameters", "prompt", "invokeai_metadata"])
def test_damaged_chunks_are_never_an_error(keyword: str):
    lot = random.Random(0)
    whole = {"parameters": A1111, "prompt": json.dumps(COMFY), "invokeai_metadata": json.dumps(INVOKE)}[keyword]
    for _ in range(300):
        text = list(whole)
        for _ in range(lot.randint(1, 6)):
            text[lot.randrange(len(text))] = lot.choice('"{}[]:,x0\n')
        foreign_recipe({keyword: "".join(text)[: lot.randint(0, len(text))]})


def test_no_recipe_is_none():
    assert foreign_recipe({}) is None
    assert foreign_recipe({"prompt": "[1, 2]"}) is None
    assert foreign_recipe({"Software": "gimp"}) is None


def comfy(changes: dict, **sampler: object) -> dict:
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"] |= sampler
    return graph | changes


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def prompts_of(graph: dict) -> tuple[object, object]:
    recipe = foreign_recipe({"prompt": json.dumps(graph)})
    assert recipe is not None
    return recipe.values.get("prompt"), recipe.values.get("negative_prompt")


@pytest.mark.parametrize("kind", ["ControlNetApplyAdvanced", "ControlNetApplySD3", "SomebodysTwoOutputs"])
def test_a_node_with_both_prompts_is_followed_by_its_output(kind: str) -> None:
    both = node(kind, positive=["6", 0], negative=["7", 0], control_net=["30", 0], image=["31", 0])
    assert prompts_of(comfy({"20": both}, positive=["20", 0], negative=["20", 1])) == ("a fox", "blurry")


def test_conditioning_nodes_are_followed_to_the_text() -> None:
    zero = node("ConditioningZeroOut", conditioning=["6", 0])
    area = node("ConditioningSetArea", conditioning=["7", 0], width=64, strength=1.0)
    assert prompts_of(comfy({"20": zero}, negative=["20", 0])) == ("a fox", "")
    assert prompts_of(comfy({"20": area}, negative=["20", 0])) == ("a fox", "blurry")
    for kind, names in (
        ("Combine", ("conditioning_1", "conditioning_2")),
        ("Concat", ("conditioning_to", "conditioning_from")),
    ):
        joined = node(f"Conditioning{kind}", **dict(zip(names, (["7", 0], ["8", 0]), strict=True)))
        graph = comfy({"20": joined, "8": node("CLIPTextEncode", text="dark", clip=["11", 0])}, negative=["20", 0])
        assert prompts_of(graph) == ("a fox", "blurry")
        recipe = foreign_recipe({"prompt": json.dumps(graph)})
        assert recipe is not None and "'dark'" in recipe.unused["negative"]


def test_texts_of_other_nodes_are_found() -> None:
    xl = {"6": node("CLIPTextEncodeSDXL", text_g=["21", 0], text_l=["21", 0], clip=["11", 0], width=1024, height=1024)}
    plain = {"21": node("PrimitiveString", value="a red fox")}
    assert prompts_of(comfy(xl | plain))[0] == "a red fox"
    joined = {"21": node("StringConcatenate", string_a="a red", string_b=["22", 0], delimiter=" ")}
    assert prompts_of(comfy(xl | joined | {"22": node("CR Text", text="fox")}))[0] == "a red fox"
    shown = {"21": node("ShowText|pysssss", text=["22", 0], text_0="old")}
    assert prompts_of(comfy(xl | shown | {"22": node("Text Multiline", text="a red fox")}))[0] == "a red fox"
    lost = foreign_recipe({"prompt": json.dumps(comfy(xl | {"21": node("SomebodysRandomWords", count=3)}))})
    assert lost is not None and "SomebodysRandomWords" in lost.unused["positive"] and "prompt" not in lost.values


ADVANCED = {
    "40": node("SamplerCustomAdvanced", noise=["41", 0], guider=["42", 0], sampler=["43", 0], sigmas=["44", 0],
        latent_image=["5", 0]),
    "41": node("RandomNoise", noise_seed=99),
    "42": node("CFGGuider", cfg=4.5, model=["10", 0], positive=["6", 0], negative=["7", 0]),
    "43": node("KSamplerSelect", sampler_name="euler"),
    "44": node("BasicScheduler", scheduler="simple", steps=12, denoise=1.0, model=["10", 0]),
}  # fmt: skip


def without_sampler() -> dict:
    return {key: value for key, value in comfy({}).items() if key != "3"}


def test_custom_samplers_are_read_part_by_part() -> None:
    expected = {"seed": 99, "num_inference_steps": 12, "guidance_scale": 4.5, "sampler": "euler", "schedule": "simple"}
    expected |= {"prompt": "a fox", "negative_prompt": "blurry", "width": 640, "model": "v1-5.safetensors"}
    advanced = foreign_recipe({"prompt": json.dumps(without_sampler() | ADVANCED)})
    assert advanced is not None and expected.items() <= advanced.values.items()
    inputs = {"add_noise": True, "noise_seed": 99, "cfg": 4.5, "positive": ["6", 0], "negative": ["7", 0]}
    inputs |= {"sampler": ["43", 0], "sigmas": ["44", 0], "latent_image": ["5", 0], "model": ["10", 0]}
    custom = foreign_recipe(
        {"prompt": json.dumps(without_sampler() | ADVANCED | {"40": node("SamplerCustom", **inputs)})}
    )
    assert custom is not None and expected.items() <= custom.values.items()


def test_the_first_of_two_passes_is_read() -> None:
    second = node("KSamplerAdvanced", noise_seed=5, steps=9, cfg=3.0, sampler_name="euler", scheduler="normal",
        positive=["6", 0], negative=["7", 0], model=["10", 0], latent_image=["3", 0])  # fmt: skip
    recipe = foreign_recipe({"prompt": json.dumps({"1": second, **comfy({})})})
    assert recipe is not None and recipe.values["seed"] == 7 and "2 in the workflow" in recipe.unused["samplers"]


def test_a_graph_is_never_no_recipe() -> None:
    graph = {"1": node("CLIPTextEncode", text="a fox", clip=["2", 0]), "2": node("SomebodysLoader")}
    recipe = foreign_recipe({"prompt": json.dumps(graph)})
    assert recipe is not None and recipe.values["prompt"] == "a fox"
    assert "SomebodysLoader" in recipe.unused["workflow"]


def test_the_editors_form_alone_is_read() -> None:
    nodes = [
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["v1-5.safetensors"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [640, 512, 1]},
        {"id": 6, "type": "CLIPTextEncode", "inputs": [{"name": "clip", "link": 1}], "widgets_values": ["a fox"]},
        {"id": 7, "type": "CLIPTextEncode", "inputs": [{"name": "clip", "link": 2}], "widgets_values": ["blurry"]},
        {
            "id": 3,
            "type": "KSampler",
            "inputs": [
                {"name": name, "link": link}
                for name, link in (("model", 3), ("positive", 4), ("negative", 5), ("latent_image", 6))
            ],
            "widgets_values": [7, "randomize", 20, 8, "dpmpp_2m", "karras", 1],
        },
    ]
    links = [[1, 4, 1, 6, 0, "CLIP"], [2, 4, 1, 7, 0, "CLIP"], [3, 4, 0, 3, 0, "MODEL"]]
    links += [[4, 6, 0, 3, 1, "CONDITIONING"], [5, 7, 0, 3, 2, "CONDITIONING"], [6, 5, 0, 3, 3, "LATENT"]]
    recipe = foreign_recipe({"workflow": json.dumps({"nodes": nodes, "links": links})})
    assert recipe is not None and recipe.values == {
        **{"seed": 7, "num_inference_steps": 20, "guidance_scale": 8.0, "sampler": "dpmpp_2m", "schedule": "karras"},
        **{"prompt": "a fox", "negative_prompt": "blurry", "width": 640, "height": 512, "model": "v1-5.safetensors"},
    }


def test_diamonds_upon_diamonds_end() -> None:
    graph = comfy(
        {f"d{i}": node("StringConcatenate", string_a=[f"d{i + 1}", 0], string_b=[f"d{i + 1}", 0]) for i in range(80)}
    )
    graph["d80"] = node("PrimitiveString", value="x")
    graph["6"]["inputs"]["text"] = ["d0", 0]
    assert foreign_recipe({"prompt": json.dumps(graph)}) is not None


BEHIND = A1111 + '\nTemplate: a {fox|cat}\nNegative Template: blurry\nHashes: {\n"model": "6ce0",\n"lora": "1a"\n}'


def test_lines_behind_the_settings_are_not_part_of_a_prompt() -> None:
    recipe, plain = foreign_recipe({"parameters": BEHIND}), foreign_recipe({"parameters": A1111})
    assert recipe is not None and plain is not None and recipe.values == plain.values
    assert recipe.unused["Template"] == "a {fox|cat}" and recipe.unused["Negative Template"] == "blurry"


def test_values_with_commas_and_colons_are_one() -> None:
    settings = 'Steps: 8, Seed: 1, Civitai resources: [{"id":3}, {"weight":1}], CFG scale: 5, Note: "a, b: c"'
    recipe = foreign_recipe({"parameters": "a fox\n" + settings})
    assert recipe is not None and recipe.values["guidance_scale"] == 5
    assert recipe.unused["Civitai resources"].startswith("[{") and recipe.unused["Note"] == "a, b: c"


def test_a_million_letters_are_read_in_a_moment() -> None:
    """Linear: a quadratic reader takes hours."""
    for text in ("a" * 10**6, "a: " * 10**5, 'a: "' * 10**5, "a: [" * 10**5, "x " * 10**5 + ":"):
        recipe = foreign_recipe({"parameters": text})
        assert recipe is not None


def test_a_recipe_without_a_schedule_means_automatic() -> None:
    recipe = foreign_recipe({"parameters": A1111.replace("Schedule type: Karras, ", "")})
    assert recipe is not None and recipe.values["schedule"] == "Automatic"


def test_invoke_2_and_novelai_are_read() -> None:
    image = {"prompt": [{"prompt": "a fox++ [blurry, text]", "weight": 1.0}], "steps": 30, "cfg_scale": 7.5, "seed": 3}
    image |= {"width": 512, "height": 640, "sampler": "k_lms", "type": "txt2img"}
    old = foreign_recipe(
        {"sd-metadata": json.dumps({"model_weights": "sd-1.5", "model": "stable diffusion", "image": image})}
    )
    assert (
        old is not None
        and old.tool == "InvokeAI"
        and old.values
        == {
            **{
                "prompt": "a fox++",
                "negative_prompt": "blurry, text",
                "num_inference_steps": 30,
                "guidance_scale": 7.5,
            },
            **{"seed": 3, "width": 512, "height": 640, "sampler": "k_lms", "model": "sd-1.5"},
        }
    )
    comment = {"prompt": "{fox}", "uc": "blurry", "steps": 28, "scale": 5.0, "seed": 4, "sampler": "k_euler_ancestral"}
    novel = foreign_recipe({"Software": "NovelAI", "Comment": json.dumps(comment)})
    assert novel is not None and novel.tool == "NovelAI" and novel.values["guidance_scale"] == 5.0
    assert "weights" in novel.unused
