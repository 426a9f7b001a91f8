"""Replies to check an IFEval checker on: prose, formats, borderline cases, odd characters, and many languages."""

from __future__ import annotations

import random

PROSE = (
    "Tea is a warm drink. Many people like it in the morning, and some drink it all day.",
    "The park was quiet. We walked around the lake, fed the ducks, and sat on a bench until the sun went down. It was "
    "a good day! Would you like to come next time? I think you should.",
    "Dr. Smith met Mrs. Jones at 5 p.m. on Jan. 3. They talked about the U.S. economy. Then they left.",
    "I paid $3.50 for 2.5 lbs. of apples at St. Mary's. The price was o.k. by me... The end.",
    "He asked, \"Are you there?\" She said no. (Nobody else spoke.) 'Fine.' What now?! Well...",
    "First, wash the rice. Second, boil it, e.g. in salted water. Third, wait. Done.",
    "J. R. Smith and K. Lee work at Acme Inc. in New York. Their boss, Prof. Brown, does not.",
    "In 1990. the town was small. By 2000. It had grown. See no. 4, vol. 2.",
    "Yes. No. Maybe! Why? Because. OK.",
    "Wait... what? Hmm... The answer is 42.",
    "Visit www.example.com today. Email me at me@example.com. Version 2.0 is out.",
    "One\nTwo\nThree",
    "no capital letters here, only small ones. it is a simple text about the sea and the sky.",
    "ALL CAPITALS HERE. THE SEA IS WIDE AND THE SKY IS BLUE. WE LIKE IT.",
    "I DON'T know WHY you can't see IT'S FINE, e.g. NASA's U.S. team: A-B and WELL-KNOWN facts (IBM/HP).",
    "Keyword keyword KEYWORD keywords; art and party, artful. The Art of war.",
    "My answer is yes.",
    "my answer is yes",
    "I think: My answer is maybe. Sure.",
    "My answer is no",
)
NATURAL = (
    "Sure! Here are some ideas for your trip, e.g. a walk by the sea. You could also visit the old town. Enjoy!",
    "We met at 6 p.m. The shop was closed. Mr. Lee said he would come back at 9 a.m. on Monday.",
    "It costs $5.99 vs. $7.25 last year. Prices rise, i.e. everything gets dearer. However, we still buy it.",
    '"I can\'t go," she said. "Why not?" he asked. "Because it\'s raining!" They stayed at home.',
    "The U.S. team won. The U.K. team lost 3-2. Prof. Green wrote about it in the Times.",
    "1. Boil the water. 2. Add the tea. 3. Wait for three min. and serve.",
    "Is it good? Yes! Is it cheap? No... But it is worth it. (At least I think so.)",
    "Dear Mrs. Brown,\n\nThank you for your letter. I will reply soon.\n\nYours, J. R. Carter",
    "The results, etc. are shown below. See Fig. 3 and no. 12. Nobody knows why.",
    "I love it!!! Do you??? I hope so...",
    "NASA and the FBI didn't comment. IBM's CEO, a Ph.D. from MIT, DOESN'T talk to the press.",
    "'It's FINE,' he SAID; 'WE'RE NOT late.' I'd say they've MISSED IT, e.g. the 5 P.M. bus.",
)
FORMATS = (
    "* one\n* two\n* three",
    "- one\n- two",
    "* one\n- two\n** three\n*four",
    "*\n* a",
    "  * indented\n\n\n   - dashed",
    "Here:\n* *bold* item\n* **strong** item",
    "text * not a bullet - nor this",
    "--- \n-5 degrees",
    "*\n\n*a",
    "<<Title>>\nText follows.",
    "<< >> nothing",
    "<<>>",
    "<<<a>>>",
    "text <<My Title>> more >> text",
    "<<broken\ntitle>>",
    "a *b* c",
    "**bold**",
    "*a* *b* *c*",
    "***x***",
    "* * *",
    "**  **",
    "*open",
    "*a*b*c*",
    "** a ** b **",
    "Section 1\nText.\nSection 2\nMore.",
    "SECTION 1 a SECTION 2 b SECTION3 c",
    "section 1",
    "Section One",
    "Section 12 13",
    "one\n***\ntwo",
    "***\none\n***\ntwo\n***",
    "one***two***three",
    "one\n***\n\n***\ntwo",
    "****",
    "one ******* two",
    "***",
    "one******two",
    "one\n******\none",
    "******one******two******",
    "one******two******three",
    "one****** ******two",
    "one\n\ntwo",
    "one\n\n\n\ntwo\n\nthree",
    "\n\none\n\ntwo",
    "'One' thing.\n\n\"Two, things\"\n\nThree",
    "One.\n\nTwo\n\n",
    '{"a": 1}',
    '```json\n{"a": [1, 2]}\n```',
    "```\n[1]\n```",
    "{'a': 1}",
    '{"a": 1} extra',
    "42",
    "null",
    "```JSON {} ```",
    "[name] and [date]",
    "[]",
    "[a",
    "a] [b",
    "[[x]]",
    "[a\nb]",
    "[one][two] [three]",
    "Text.\n\nP.S. Bye.",
    "P. S. bye",
    "p.s bye",
    "Text P.P.S more",
    "P. P. S. x",
    "p.p.s.",
    "PS: bye",
    "P.S.P.S.",
    "He said hi. Any other questions?",
    '"Quoted text"',
    '"',
    '""',
    '"a" and "b"',
    "'single'",
    '" spaced " ',
    "“curly”",
    "Write about tea.\nTea is good.",
    "write about TEA. sure",
    " Write about tea. ok",
    "Sure! Write about tea.",
)
MISTAKEN_ENGLISH = (
    *("YES. NO. MAYBE! WHY? BECAUSE. OK.", "ONE\nTWO\nTHREE", "MY ANSWER IS YES.", "MY ANSWER IS YES"),
    "KEYWORD KEYWORD KEYWORD KEYWORDS; ART AND PARTY, ARTFUL. THE ART OF WAR.",
    "THE RESULTS, ETC. ARE SHOWN BELOW. SEE FIG. 3 AND NO. 12. NOBODY KNOWS WHY.",
    "i love it!!! do you??? i hope so...",
)
"""English that langdetect takes for Somali, Vietnamese, German or another language."""
MISTAKEN_FOREIGN = (
    "ELLA TIENE UNA CASA PEQUEÑA CERCA DEL RÍO, DONDE LEE MUCHOS LIBROS CADA NOCHE.",
    "ELLE A UNE PETITE MAISON PRÈS DE LA RIVIÈRE, OÙ ELLE LIT BEAUCOUP DE LIVRES CHAQUE SOIR.",
    "HÄNELLÄ ON PIENI TALO JOEN LÄHELLÄ, JOSSA HÄN LUKEE PALJON KIRJOJA JOKA ILTA.",
    "LEO HALI YA HEWA NI NZURI SANA NA TUNATAKA KWENDA KWENYE BUSTANI NA MARAFIKI ZETU.",
)
"""Spanish, French, Finnish and Swahili that langdetect takes for English."""
ODD = (
    "",
    " ",
    "\n",
    "\t\n ",
    "…",
    "¡Hola! ¿Qué tal?",
    "naïve café, résumé",
    "日本語のテキスト。とても良い。",
    "Привет, мир!",
    "ﬁne ﬂow",
    "İstanbul ı I i",
    "STRASSE straße",
    "٣ apples, ４２ pears",
    "zero\u200bwidth",
    "a\u00a0b\u2003c",
    "🙂🙂 good 🙂",
    "line\u2028sep",
    "tab\tsep",
    "a\r\nb\r\n* c",
    "Ωμέγα ΟΔΟΣ",
    "x" * 200,
    "a, b; c: d - e – f — g",
    "e\u0301clair",
    "\ufeffBOM start",
    "\x0b* vt\x0c- ff",
    "‘quoted’ “text.” Done.",
)
LANGUAGES = {
    "en": (
        "The weather is very nice today and we want to go to the park with our friends.",
        "She has a small house near the river, where she reads many books every evening.",
    ),
    "es": (
        "Hoy hace muy buen tiempo y queremos ir al parque con nuestros amigos.",
        "Ella tiene una casa pequeña cerca del río, donde lee muchos libros cada noche.",
    ),
    "pt": (
        "Hoje o tempo está muito bom e queremos ir ao parque com os nossos amigos.",
        "Ela tem uma casa pequena perto do rio, onde lê muitos livros todas as noites.",
    ),
    "fr": (
        "Il fait très beau aujourd'hui et nous voulons aller au parc avec nos amis.",
        "Elle a une petite maison près de la rivière, où elle lit beaucoup de livres chaque soir.",
    ),
    "de": (
        "Das Wetter ist heute sehr schön und wir wollen mit unseren Freunden in den Park gehen.",
        "Sie hat ein kleines Haus am Fluss, wo sie jeden Abend viele Bücher liest.",
    ),
    "it": (
        "Oggi il tempo è molto bello e vogliamo andare al parco con i nostri amici.",
        "Lei ha una piccola casa vicino al fiume, dove legge molti libri ogni sera.",
    ),
    "pl": (
        "Pogoda jest dzisiaj bardzo ładna i chcemy iść do parku z naszymi przyjaciółmi.",
        "Ona ma mały dom nad rzeką, gdzie każdego wieczoru czyta wiele książek.",
    ),
    "vi": (
        "Hôm nay thời tiết rất đẹp và chúng tôi muốn đi công viên với bạn bè.",
        "Cô ấy có một ngôi nhà nhỏ gần sông, nơi cô ấy đọc nhiều sách mỗi tối.",
    ),
    "fi": (
        "Sää on tänään erittäin kaunis ja haluamme mennä puistoon ystäviemme kanssa.",
        "Hänellä on pieni talo joen lähellä, jossa hän lukee paljon kirjoja joka ilta.",
    ),
    "sw": (
        "Leo hali ya hewa ni nzuri sana na tunataka kwenda kwenye bustani na marafiki zetu.",
        "Yeye ana nyumba ndogo karibu na mto, ambapo anasoma vitabu vingi kila jioni.",
    ),
    "ru": (
        "Сегодня очень хорошая погода, и мы хотим пойти в парк с друзьями.",
        "У неё есть маленький дом у реки, где она каждый вечер читает много книг.",
    ),
    "uk": (
        "Сьогодні дуже гарна погода, і ми хочемо піти до парку з друзями.",
        "У неї є маленький будинок біля річки, де вона щовечора читає багато книг.",
    ),
    "bg": (
        "Днес времето е много хубаво и ние искаме да отидем в парка с приятелите си.",
        "Тя има малка къща близо до реката, където всяка вечер чете много книги.",
    ),
    "hi": (
        "आज मौसम बहुत अच्छा है और हम अपने दोस्तों के साथ पार्क जाना चाहते हैं।",
        "उसका नदी के पास एक छोटा घर है जहाँ वह हर शाम किताबें पढ़ती है।",
    ),
    "mr": (
        "आज हवामान खूप छान आहे आणि आम्हाला मित्रांसोबत बागेत जायचे आहे.",
        "तिचे नदीजवळ एक छोटे घर आहे आणि ती रोज संध्याकाळी पुस्तके वाचते.",
    ),
    "ne": (
        "आज मौसम धेरै राम्रो छ र हामी साथीहरूसँग पार्क जान चाहन्छौं।",
        "उनको नदी नजिकै एउटा सानो घर छ जहाँ उनी हरेक साँझ किताब पढ्छिन्।",
    ),
    "ar": (
        "الطقس جميل جدا اليوم ونحن نريد الذهاب إلى الحديقة مع أصدقائنا.",
        "لديها بيت صغير قرب النهر وهي تقرأ الكتب كل مساء.",
    ),
    "fa": (
        "امروز هوا خیلی خوب است و ما می‌خواهیم با دوستان به پارک برویم.",
        "او یک خانه کوچک نزدیک رودخانه دارد و هر شب کتاب می‌خواند.",
    ),
    "ur": (
        "آج موسم بہت اچھا ہے اور ہم اپنے دوستوں کے ساتھ پارک جانا چاہتے ہیں۔",
        "اس کا دریا کے پاس ایک چھوٹا گھر ہے جہاں وہ ہر شام کتابیں پڑھتی ہے۔",
    ),
    "he": (
        "מזג האוויר יפה מאוד היום ואנחנו רוצים ללכת לפארק עם חברים.",
        "יש לה בית קטן ליד הנהר והיא קוראת ספרים כל ערב.",
    ),
    "bn": ("আজ আবহাওয়া খুব সুন্দর এবং আমরা বন্ধুদের সাথে পার্কে যেতে চাই।", "নদীর কাছে তার একটি ছোট বাড়ি আছে যেখানে সে বই পড়ে।"),
    "pa": ("ਅੱਜ ਮੌਸਮ ਬਹੁਤ ਸੋਹਣਾ ਹੈ ਅਤੇ ਅਸੀਂ ਦੋਸਤਾਂ ਨਾਲ ਪਾਰਕ ਜਾਣਾ ਚਾਹੁੰਦੇ ਹਾਂ।",),
    "gu": ("આજે હવામાન ખૂબ સરસ છે અને અમે મિત્રો સાથે પાર્કમાં જવા માંગીએ છીએ.",),
    "ta": ("இன்று வானிலை மிகவும் நன்றாக உள்ளது, நாங்கள் நண்பர்களுடன் பூங்காவிற்கு செல்ல விரும்புகிறோம்.",),
    "te": ("ఈ రోజు వాతావరణం చాలా బాగుంది, మేము స్నేహితులతో పార్కుకు వెళ్లాలనుకుంటున్నాము.",),
    "kn": ("ಇಂದು ಹವಾಮಾನ ತುಂಬಾ ಚೆನ್ನಾಗಿದೆ ಮತ್ತು ನಾವು ಸ್ನೇಹಿತರೊಂದಿಗೆ ಉದ್ಯಾನವನಕ್ಕೆ ಹೋಗಲು ಬಯಸುತ್ತೇವೆ.",),
    "ml": ("ഇന്ന് കാലാവസ്ഥ വളരെ നല്ലതാണ്, ഞങ്ങൾ സുഹൃത്തുക്കളോടൊപ്പം പാർക്കിൽ പോകാൻ ആഗ്രഹിക്കുന്നു.",),
    "th": ("วันนี้อากาศดีมากและเราอยากไปสวนสาธารณะกับเพื่อน",),
    "ko": ("오늘은 날씨가 아주 좋아서 우리는 친구들과 공원에 가고 싶습니다.",),
    "ja": ("今日はとても天気がいいので、友達と公園に行きたいです。",),
}
_WORDS = (
    "the a of and to in is was for on with tea rain river book song market friend morning IBM NASA I don't can't it's "
    "they're U.S. Dr. Mr. etc. e.g. 3.5 2024. however The This It We art party blue *bold* [name] P.S. Section SECTION "
    '1 2 "hello" (maybe) well-known ALL GOOD cannot gonna'
).split()


def sampled(seed: int, n: int) -> list[str]:
    """`n` replies drawn word by word, with sentences, lines, bullets and dividers."""
    rng = random.Random(seed)
    replies = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 6)):
            sentence = " ".join(rng.choices(_WORDS, k=rng.randint(1, 12))) + rng.choice(
                (".", ".", "!", "?", "...", ",", '."')
            )
            parts += [rng.choice(("", "", "* ", "- ", "<<A>> ")), sentence[:1].upper() + sentence[1:]]
            parts.append(rng.choice((" ", " ", "\n", "\n\n", "\n***\n", "******", "  ")))
        replies.append("".join(parts))
    return replies
