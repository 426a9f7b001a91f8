"""The words that make a language known: the commonest of each, written down for this package.

A text of two sentences holds several of them in any language. The first languages are those IFEval asks for; the
others are there so that their texts are not taken for a neighbour's.
"""

from __future__ import annotations

_LATIN = {
    "en": (
        "the of and to in is it that was for on are with as his they be at one have this from by not but what all "
        "were we when your can said there use an each which she do how their if will up other about out many then "
        "them these so some her would make like him into has had its who now my than been you he or just our me no "
        "us very because could should only also more most any much where why over after before here every i am did "
        "does don really such may might must own same too still well even new old good great first last long little "
        "world life people time way year work part place thing things day help using used"
    ),
    "es": (
        "el la los las de del que y a en un una es por con para no se su al lo como más pero sus le ya o este sí "
        "porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno "
        "les ni contra otros ese eso ante ellos e esto mí antes algunos qué unos yo otro otras otra él tanto esa "
        "estos mucho está son ser tiene fue era han gusta mi tu hoy cada siempre mejor día agua casa muchas muchos "
        "estas nuestra nuestro nuestros nuestras puede pueden hace hacer vez bien solo gran años vida mundo tiempo "
        "así aunque mientras después además quiero queremos puedes cosas gente nuevo nueva"
    ),
    "pt": (
        "o a os as de do da dos das que e em um uma é por com para não se no na nos nas ao à como mais mas foi ele "
        "ela seu sua ou quando muito há já está eu também só pelo pela até isso entre depois sem mesmo aos seus "
        "quem me esse eles você essa num nem suas meu às minha numa são tem ser ter nós este esta muitos hoje "
        "sempre melhor dia água casa gosto pode muitas nossa nosso nossos podem fazer bem grande anos vida mundo "
        "tempo assim embora enquanto além quero queremos coisas gente novo nova uns umas dele dela aqui lá"
    ),
    "fr": (
        "le la les de des du et à un une est en que qui dans pour pas sur au aux avec ce il elle ne se son sa ses "
        "par plus je nous vous ils elles mais ou où on cette ces comme sont être tout tous très bien fait été leur "
        "leurs si y d l c j n s m qu même aussi sans entre après quand peut mon ma mes ton votre notre chaque "
        "toujours jour eau maison quel sous nos beaucoup peuvent faire bon grand ans vie monde temps ainsi alors "
        "pendant choses nouveau nouvelle autre autres donc car avoir cela fois moins nom dont encore toute toutes "
        "chez"
    ),
    "de": (
        "der die das und ist in zu den von mit sich des auf für nicht ein eine als auch es an er hat aus bei sie "
        "nach wird einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch "
        "man sein wurde wenn ich du wir ihr mir dir uns mein dein kein keine kann können sehr gut dem im dass weil "
        "hier heute immer jeden jeder tag wasser haus unser unsere unseren viele vielen diese dieser dieses diesen "
        "müssen machen gute großen jahre leben welt zeit also während dinge neue neuen andere anderen dann doch "
        "schon alle allen beim vom ihre ihren seine seinen etwas nichts zwischen unter gegen ohne jetzt da denn ob"
    ),
    "it": (
        "il lo la i gli le di del della dei delle da dal in nel nella con su per tra fra e che non è un una uno si "
        "sono ha come più ma anche al alla alle se ho questo questa quello suo sua loro o ci mi ti cui quando molto "
        "dove chi perché sempre ogni giorno acqua casa essere stato era hanno siamo c l d dell nell all degli sul "
        "sulla bene oggi poi nostro nostra nostri nostre molte molti molta possono fare grande anni vita mondo "
        "tempo così mentre dopo cose nuovo nuova altri altre altro quindi perciò tutti tutto tutte può ancora senza "
        "questi queste quelli noi voi"
    ),
    "pl": (
        "i w na z do nie się to jest że a o jak po co ale tak za od przez dla czy są już był była było być oraz ich "
        "jego jej tym tego ten ta te które który która gdy bardzo może ja ty my wy mnie mi ci nas tylko lub we ze "
        "przy nad pod kiedy każdy każdego zawsze dzień dom woda lubię dobrze ma mają nasze naszym nasz wiele wielu "
        "tych mogą robić dobry rok życie świat czas więc inne wszystko wszystkie bez między teraz"
    ),
    "vi": (
        "và của là có không được trong cho một người với các những này đã khi để đó từ về ra như đến cũng tôi anh em "
        "chúng ta bạn rất nhiều hơn nhưng vì nếu mà thì ở trên vào sẽ lại phải năm ngày nước nhà mỗi đang hay theo "
        "làm"
    ),
    "fi": (
        "ja on ei se että hän oli en mutta kun niin myös ovat joka minä sinä me te he mitä tai vain ole kuin sitä "
        "jos mukaan sen hänen tämä nyt olen ollut olla jo vielä sekä ennen kanssa hyvin paljon aina päivä vesi talo "
        "minun voi siitä tässä ne tänään koska meidän monet monta nämä täytyy tehdä hyvä suuri vuosi elämä maailma "
        "aika siis asiat uusi muut kaikki ilman"
    ),
    "sw": (
        "na ya wa kwa ni la za katika cha kuwa hii huo hiyo lakini pia yake wake sana watu mtu mimi wewe sisi yeye "
        "wao kila siku maji nyumba si ambao ambayo ili kama au hivyo baada kabla hapa pale wote yote vya kutoka hadi "
        "mwaka wakati zaidi tu yangu wangu alikuwa anapenda napenda leo"
    ),
    "nl": (
        "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij uit door naar heeft "
        "hij ze wij ik je jij hun hem haar worden wordt nog wel geen deze die dit over zo kan meer veel of altijd "
        "elke dag huis onze moeten maken goed grote jaar leven wereld tijd dus terwijl dingen nieuwe andere toch "
        "alle zonder tussen tegen nu want"
    ),
    "sv": (
        "och i att det som en på är av för med den till inte har de ett om var jag han hon vi ni men så från kan "
        "när sig eller också vara ska mycket alltid varje dag min din detta här hus vatten vårt våra många dessa "
        "måste göra bra stora liv värld tid alltså medan saker nya andra alla utan mellan nu"
    ),
    "da": (
        "og i at det er en til på som for af med den de ikke har et om var jeg han hun vi men så fra kan når sig "
        "eller også være skal meget altid hver dag min din dette her hus vand efter blev ved"
    ),
    "no": (
        "og i at det er en til på som for av med den de ikke har et om var jeg han hun vi men så fra kan når seg "
        "eller også være skal mye alltid hver dag min din dette her hus vann etter ble ved"
    ),
    "ro": (
        "și în de la a un o cu pe este nu că care din pentru mai sunt se au fi al ale ca să lui ei el ea noi voi "
        "foarte dar sau acest această când prin după zi casă apă"
    ),
    "cs": (
        "a v se na je že s z do to o k i ve pro jako si jsou byl ale po které který tak od za podle jeho by mezi jsem "
        "není velmi každý den dům voda nebo když také už"
    ),
    "tr": (
        "ve bir bu da de için ile çok ne gibi daha ama olarak olan var o en her ben sen biz siz onlar değil mi kadar "
        "sonra gün su ev ya ki göre"
    ),
    "id": (
        "yang dan di dengan untuk dari pada tidak ini itu adalah dalam akan ke saya kita kami mereka anda dia juga "
        "ada karena oleh atau sudah bisa sangat setiap hari air rumah lebih"
    ),
    "hu": (
        "a az és hogy nem is egy van ez meg csak de ha mint már még volt el azt ki nagyon minden én te mi ti ők vagy "
        "nap ház víz"
    ),
    "ca": (
        "el la els les de del i que a en un una és per amb no se al com més però va ha o són seu seva aquest aquesta "
        "molt hi també dia aigua casa quan"
    ),
}
_CYRILLIC = {
    "ru": (
        "и в не на я что он с по это как а то все она так его но да ты к у же вы за бы мы от из для только ещё или "
        "при был была было быть они есть очень когда если уже мой каждый день вода дом где кто чтобы также"
    ),
    "uk": (
        "і в не на я що він з по це як а то все вона так його але та ти до у ж ви за б ми від із для тільки ще або "
        "при був була було бути вони є дуже коли якщо вже мій кожен день вода дім де хто щоб також"
    ),
    "bg": (
        "и в не на аз че той с по това как а то всички тя така но да ти към у вие за бих ние от из само още или при "
        "беше са е си се ще съм много когато ако вече мой всеки ден вода къща къде кой който също като"
    ),
    "mk": (
        "и во не на јас што тој со по ова како а тоа таа но да ти кон вие за би ние од само уште или при беше се е ќе "
        "сум многу кога ако веќе мој секој ден вода куќа"
    ),
}
_DEVANAGARI = {
    "hi": (
        "है हैं का की के को में से और ने पर यह वह था थी थे भी एक कि हम मैं आप तो लिए ही नहीं हो कर बहुत रहा रही इस हर "
        "दिन पानी घर मुझे सभी"
    ),
    "mr": (
        "आहे आहेत आणि चा ची चे मध्ये होते होता होती नाही हा ही ते तो मी तुम्ही आम्ही एक या व पण खूप प्रत्येक दिवस "
        "पाणी घर मला सर्व करतो करते"
    ),
    "ne": ("छ छन् र हो को का मा ले लाई गर्न भएको पनि यो त्यो म हामी तपाईं एक धेरै छैन गर्छ गर्छु हुन्छ हरेक दिन पानी घर मलाई सबै"),
}
_ARABIC = {
    "ar": (
        "في من على أن إلى هذا هذه التي الذي كان هو هي لا ما مع عن كل أو و ثم قد لم بعد قبل جدا يوم ماء بيت أنا نحن كما"
    ),
    "fa": "و در به از که این است را با برای آن یک خود تا می بر هم نیز من ما شما او بود شد هر روز آب خانه خیلی دارم",
    "ur": (
        "کے میں ہے کی اور سے کا کو نے پر یہ وہ ہیں تھا بھی ایک کہ ہم آپ تو لیے ہی نہیں ہو کر بہت ہر دن پانی گھر مجھے"
    ),
}
FUNCTION_WORDS = {
    script: {language: frozenset(words.split()) for language, words in languages.items()}
    for script, languages in {
        "latin": _LATIN,
        "cyrillic": _CYRILLIC,
        "devanagari": _DEVANAGARI,
        "arabic": _ARABIC,
    }.items()
}

ENDINGS = {
    "es": "ción ciones idad idades encia ando iendo amos aron illo illa izan iento ienta ientas anza able ible oso osa",
    "pt": "ção ções dade dades ência ando endo amos aram inho inha ões ães ável ível oso osa eiro eira gem",
    "fr": "tion tions ité ités eux euse ment ence ance ant ent ais ait aient eur eurs ique iques elle age able ible",
    "de": "ung ungen heit keit lich liche lichen isch ische ischen schaft erung tzen cht eit eren ieren",
    "it": "zione zioni ità mente ando endo iamo arono ezza enza anza ella elli ello aggio ibile abile oso osa ienda",
    "en": "tion tions ing ings ness ment ments ous ity ies ght able ible ful less ally edly",
    "nl": "heid heden lijk lijke tie ties schap ingen eren aar oor ijk ijn",
    "sv": "ning ningar het lig ligt liga ande orna erna heter elser",
    "pl": "ość ości anie enie ego emu ych ymi ała ali owy owe owa cja cji",
    "fi": "ssa ssä sta stä lla llä lta ltä lle iin een aan ksi nen tta ttä vat vät isen",
}
"""How words of some languages end; weak evidence, for texts with few function words."""

ENGLISH = FUNCTION_WORDS["latin"]["en"] | frozenset(
    "able above accept across act action active actually add adult afternoon again against age ago agree ahead air "
    "almost alone along already although always among amount animal animals another answer anyone anything apart "
    "appear apple apples area around arrive art ask away baby back bad bag baked bake balance ball bank base bath "
    "beach bear beautiful beauty became become bed began begin behind being believe below best better between big "
    "bird birds bit black blue board boat body book books both bottle bottom box boy bread break breakfast bridge "
    "bright bring brought brown build building built business busy butter buy cake cakes call called calm came car "
    "care careful carry case cat cats cause center certain chair chance change cheap cheese child children choice "
    "choose city class clean clear climb close cloth clothes cloud clouds coat coffee cold color come common "
    "community complete consider contact cook cool corner cost country course cover create cry cup cut daily dance "
    "dark day days dear decide deep despite details develop did different dinner dish distance doctor dog dogs done "
    "door down draw dream dress drink drive drop dry during ear early earth ease easily east easy eat egg eggs "
    "either else empty end energy enjoy enough enter even evening ever everyone everything exact example excellent "
    "exercise expect explain eye eyes face fact fall family famous far farm fast favorite feel feet felt few field "
    "fill final finally find fine finish fire first fish fit five fix flat floor flour flower flowers fly follow "
    "food foot force forest forget form forward found four free fresh friend friendly friends front fruit full fun "
    "future game garden gave general gentle get gift girl give given glad glass go goes gold gone good got grass "
    "great green ground group grow guide hair half hand hands happen happy hard harm hat head health healthy hear "
    "heart heat heavy hello help helped helps hence high hill himself hold hole home hope horse hot hour hours "
    "house however huge human hundred hungry idea ideas important improve include indeed inside instead interest "
    "island job join journey joy jump keep kept key kind kitchen knew know known lake land language large last late "
    "later laugh law lead learn least leave left leg less lesson let letter letters level life light likely line "
    "list listen little live lives living local long look looks lose lost lot loud love low luck lunch machine made "
    "main man map mark market matter may maybe meal mean means meanwhile meat meet men message might milk mind mine "
    "minute miss modern moment money month moon moreover morning mother mountain mouth move music must myself name "
    "nature near nearly neck need needs neither never nevertheless new news next nice night nobody noise none nor "
    "north nose note nothing notice number ocean off offer office often oil old once online open or orange order "
    "others otherwise ourselves outside own page paint pair paper parent park part party pass past path pay peace "
    "people per perhaps person phone photo pick picture piece place plan plant plants plate play please point "
    "polite poor possible pot power practice prepare present pretty price problem provide public pull pure push put "
    "question quick quickly quiet quite rain raise ran rather reach read ready real reason red relax remember reply "
    "request rest rich ride right ring rise river road rock roll room rose round rule run sad safe said salt same "
    "sand sat save saw say says school sea seat second see seed seem seen sell send sense sentence serve set seven "
    "several shade shall shape share sharp ship shoe shoes shop short show shut sick side sight sign simple simply "
    "since sing sister sit six size skill skin sky sleep slow slowly small smell smile snow soap soft soil sold "
    "someone something sometimes son song soon sorry sort sound soup south space speak special spend spoon spring "
    "stand star stars start stay step still stone stop store story street strong student study such sugar summer "
    "sun sunny sure surprise sweet swim table take taken talk tall taste tea teach teacher team tell ten test thank "
    "thanks themselves therefore thin thing things think third those though thought thousand three through throw "
    "thus ticket time times tiny tired title today together told tomorrow tonight too took tool top topic touch "
    "toward town train travel tree trees trip true trust truth try turn twice two type under understand until "
    "unless upon useful usual usually value visit voice wait walk wall want warm wash watch water wave way ways "
    "weak wear weather week weekend welcome well went west wet wheel whenever whether while white whole whose wide "
    "wild wind window winter wise wish within without woman women wonder wonderful wood word words wore work world "
    "worry worth write wrong wrote yard year years yellow yes yesterday yet young yourself zero".split()
)
