//! Words and templates for posts.

/// Phrases. `{noun}`, `{adjective}`, `{place}`, `{activity}` and `{time}` are replaced with a word of that list.
pub(super) const TEMPLATES: [&str; 40] = [
    "can't stop thinking about {noun}",
    "just saw {noun} {place} and I'm not okay",
    "who else is {activity} {time}?",
    "honestly {noun} makes everything {adjective}",
    "{time} and I'm still {activity}",
    "my {adjective} cat is {activity} again",
    "if you don't like {noun} we can't be friends",
    "started {activity} {place}, send help",
    "Today was {adjective}. That's it, that's the post",
    "{noun} + {noun} = the perfect evening",
    "why is everyone {activity} {place}?",
    "someone stole {noun} {place}",
    "I need {noun} in my life",
    "so {adjective} right now",
    "100% {adjective}, 0% regrets",
    "we went {activity} {place} and it was {adjective}",
    "nobody told me {noun} would be this {adjective}",
    "update: still {activity}",
    "mood: {adjective}",
    "thank you {place}, you were {adjective}!!",
    "is it weird to miss {noun} this much",
    "all I want is {noun} {time}",
    "caught my brother {activity} with {noun}",
    "me: be productive. also me: {activity} {place}",
    "The secret to a good day? {noun}.",
    "{adjective} people & {adjective} music {time}",
    "that feeling when {noun} is finally yours",
    "dreamt of {noun} {place} last night",
    "one does not simply stop {activity}",
    "rate my day: {adjective}/10",
    "good morning to everyone {activity} {time}",
    "first rule {place}: no {noun}",
    "it's {adjective} how fast {noun} disappears",
    "you: normal. us: {activity} {time}",
    "never {activity} {place} again",
    "2 hours of {activity}, worth it",
    "plot twist: {noun} was {adjective} all along",
    "going to need more {noun} for this",
    "they call it {noun}, I call it {adjective}",
    "anyone up for {activity} {place}?",
];

/// Words for `{noun}`.
pub(super) const NOUNS: [&str; 24] = [
    "iced coffee",
    "cold pizza",
    "a long nap",
    "the last episode",
    "pancakes",
    "that song",
    "a puppy",
    "free wifi",
    "my old phone",
    "summer rain",
    "the night bus",
    "garlic bread",
    "a snow day",
    "your playlist",
    "the weekend",
    "homemade ramen",
    "a window seat",
    "the new album",
    "one more chapter",
    "fresh socks",
    "our group chat",
    "a broken umbrella",
    "payday",
    "the family recipe",
];

/// Words for `{adjective}`.
pub(super) const ADJECTIVES: [&str; 16] = [
    "unreal",
    "beautiful",
    "tired",
    "hungry",
    "legendary",
    "ridiculous",
    "sunny",
    "perfect",
    "chaotic",
    "emotional",
    "weird",
    "amazing",
    "awkward",
    "brand new",
    "sleepy",
    "so much better",
];

/// Words for `{place}`.
pub(super) const PLACES: [&str; 14] = [
    "in Lisbon",
    "on the train",
    "at the library",
    "in São Paulo",
    "at work",
    "at the beach",
    "in Kraków",
    "on the roof",
    "in the kitchen",
    "at 30,000 feet",
    "in Montréal",
    "behind the stage",
    "in the rain",
    "at my aunt's",
];

/// Words for `{activity}`.
pub(super) const ACTIVITIES: [&str; 16] = [
    "dancing",
    "watching reruns",
    "baking bread",
    "studying",
    "learning the ukulele",
    "people watching",
    "running late",
    "packing",
    "singing off-key",
    "skating",
    "writing postcards",
    "waiting for the bus",
    "fixing my bike",
    "eating noodles",
    "cleaning",
    "doing nothing",
];

/// Words for `{time}`.
pub(super) const TIMES: [&str; 10] = [
    "at 3am",
    "on a Monday",
    "before breakfast",
    "all day long",
    "tonight",
    "since yesterday",
    "on a school night",
    "after midnight",
    "this weekend",
    "at noon",
];

/// Phrases in other languages.
pub(super) const NON_ENGLISH_PHRASES: [&str; 20] = [
    "qué día tan bonito, ¡no me lo creo!",
    "¿quién más está despierto a esta hora?",
    "mañana será otro día",
    "saudades do verão, já volto",
    "hoje não, amanhã também não",
    "bom dia família, café na mão",
    "j'ai mangé trop de crêpes, zéro regret",
    "ça va être une très longue journée",
    "schönes Wochenende, ihr Lieben",
    "heute gibt's Käsekuchen, größer als mein Kopf",
    "今日はいい天気ですね",
    "ラーメン食べたい…もう3杯目",
    "眠いけど仕事に行ってきます",
    "오늘도 좋은 하루 보내세요",
    "치킨은 언제나 옳다",
    "今天的晚霞太美了",
    "صباح الخير يا أصدقاء، يوم جميل",
    "доброе утро, где мой кофе?",
    "bugün hava çok güzel, çay içelim",
    "σήμερα θάλασσα και παγωτό",
];

/// Hashtags.
pub(super) const HASHTAGS: [&str; 20] = [
    "mood",
    "nofilter",
    "tbt",
    "MondayMotivation",
    "caturday",
    "foodie",
    "weekend",
    "blessed",
    "goals",
    "nowplaying",
    "travel",
    "sunset",
    "throwback",
    "lol",
    "été",
    "amor",
    "ラーメン",
    "bts",
    "WorldCup",
    "emoji",
];

/// Text that looks like markup and must be delivered unchanged.
pub(super) const MARKUP: [&str; 6] = ["<3", "</3", "<b>wow</b>", "&amp; more", "1 < 2 && 3 > 2", "<!-- hi -->"];

/// First halves of screen names.
pub(super) const HANDLE_STARTS: [&str; 16] = [
    "happy", "its_", "the_real", "mr_", "miss_", "tiny", "lazy", "dj_", "cosmic", "salty", "just", "super", "urban",
    "lunar", "retro", "x",
];

/// Second halves of screen names.
pub(super) const HANDLE_ENDS: [&str; 16] = [
    "panda", "noodle", "maria", "kenji", "otter", "luna", "mike", "sofia", "toast", "nova", "waffle", "jin", "amelie",
    "bear", "zoe", "pixel",
];

/// Display names.
pub(super) const NAMES: [&str; 24] = [
    "María José",
    "Kenji",
    "Zoë B.",
    "Big Mike",
    "luna ☾",
    "O'Malley",
    "김민지",
    "さくら",
    "Jürgen",
    "the \"real\" Sam",
    "Amélie",
    "дима",
    "Nova \\o/",
    "Tiny Panda",
    "Søren",
    "Ayşe",
    "Chloe & Max",
    "محمد",
    "Łukasz",
    "小明",
    "Captain Toast",
    "João",
    "Ines",
    "Priya",
];
